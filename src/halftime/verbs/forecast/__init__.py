"""`forecast`: what would each stage take on a named GPU, without the GPU and without the
weights?"""
