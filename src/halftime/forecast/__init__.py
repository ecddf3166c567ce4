"""What each stage of a pipeline would take on a named GPU, without the GPU and without the weights."""
