"""`forecast`: what would each stage take on a named GPU? Needs neither the GPU nor the weights."""
