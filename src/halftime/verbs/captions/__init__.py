"""`captions`: which caption requests need the large model? A router with a certified error.

`features` and `router` decide with numpy and Pillow alone; `calibrate` learns and certifies; `app`
and `litellm_hook` put the same decision in front of real models.
"""
