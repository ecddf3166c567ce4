"""`audit`: where would CPU and GPU wait for each other, and can the loop be captured? No GPU
needed."""
