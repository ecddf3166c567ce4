"""`trace`: where did the time go, read from a torch.profiler trace that was recorded elsewhere."""

from halftime.trace.run import trace
from halftime.verbs import callable_package

__all__ = ["trace"]

callable_package(__name__, trace)
