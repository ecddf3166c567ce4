"""The host's side: what Python and the dispatcher take to issue a forward, a step and a call."""

from __future__ import annotations

from halftime.verbs.forecast.ops import StageTrace

# Against one dispatched operation that launches a kernel: one that only makes a view, and one
# Python module's call.
VIEW, MODULE = 0.3, 0.4
# A compiled module replays a captured graph; a kernel of it costs the host this share of an eager
# operation.
REPLAYED = 0.02
# Of a step's own work: the scheduler's arithmetic, and looking up where in the schedule it stands.
SCHEDULER_SHARE, INDEX_SHARE = 0.5, 0.1


def operations(trace: StageTrace, *, compiled: bool) -> float:
    """The host's work for one forward, in dispatched operations."""
    if compiled:
        return REPLAYED * sum(group.kernels * group.count for group in trace.compiled)
    return trace.dispatched + VIEW * trace.views + MODULE * trace.modules
