"""One room for "a pipeline": load it, what it holds, where it runs, what its call takes, its state,
how to change it."""
