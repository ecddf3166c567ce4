"""`trace`: where did the time go, read from a torch.profiler trace that was recorded elsewhere?"""
