"""The host's side: what Python and the dispatcher take to issue a forward, a step and a call."""

from __future__ import annotations

from collections.abc import Mapping

from halftime.forecast.constants import Constants
from halftime.forecast.ops import StageTrace
from halftime.forecast.roofline import Array, softmax

# Against one dispatched operation that launches a kernel: one that only makes a view, and one Python module's call.
VIEW, MODULE = 0.3, 0.4
# A compiled module replays a captured graph; a kernel of it costs the host this share of an eager operation.
REPLAYED = 0.02


def operations(trace: StageTrace, *, compiled: bool) -> float:
    """The host's work for one forward, in dispatched operations."""
    if compiled:
        return REPLAYED * sum(group.kernels * group.count for group in trace.compiled)
    return trace.dispatched + VIEW * trace.views + MODULE * trace.modules


def overlapped(device: Array, host: Array) -> Array:
    """A forward takes the slower of device and host, since launches are asynchronous."""
    return softmax(device, host)


def step_seconds(c: Constants | Mapping[str, float]) -> float:
    """The host's work for one step beside the network."""
    return c["step"]
