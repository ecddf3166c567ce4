"""What builds the data that halftime ships, and its data: `python -m workshop.<folder>.<what>`."""
