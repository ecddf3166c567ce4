"""`doctor`: what is installed, what can be used, and what would be faster?"""
