"""`plan`: how to run a model on a card."""
