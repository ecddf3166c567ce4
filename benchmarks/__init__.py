"""What is measured, by verb: `python -m benchmarks.<verb>.<what>` in the checkout."""
