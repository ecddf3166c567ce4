"""Every private name of torch, diffusers and transformers that halftime relies on, each once.

`pytorch` needs torch to be imported; `hugging_face` (diffusers, transformers, and accelerate and
peft through them) imports what it needs when called, and reads the rest off objects. Each entry
says why the private name is used; tests/test_upstream.py has a test for each that says what breaks
without it. A new private name goes here, with its reason and its test, and nowhere else.
"""
