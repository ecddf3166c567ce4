"""Each place where the host waited for the device: how long, and what that cost the device."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from halftime.records import SyncWait
from halftime.trace.device import WAIT, Gap
from halftime.trace.read import NONE, Ints, Trace

NANO = 1e-9
STACK_DEPTH = 6
_FRAME = re.compile(r"\.py\(\d+\): ")
# Frames of torch itself say nothing about whose fault a wait is.
_TORCH = re.compile(r"(^|/)torch/|contextlib\.py|_tensor\.py|module\.py\(")


def syncs(trace: Trace, found_gaps: Sequence[Gap], stage_at: Callable[[int], str]) -> tuple[SyncWait, ...]:
    """Waits by call, stage and Python stack, the costliest first.

    `host_seconds` is what the host waited. Most of it is hidden where the device works meanwhile; `wall_seconds`, the
    true cost, is how long the device then stood idle until the host had sent it something new.
    """
    waits = np.flatnonzero(trace.named(trace.runtime, WAIT))
    cost: dict[int, int] = defaultdict(int)
    for gap in found_gaps:
        if gap.sync != NONE:
            cost[gap.sync] += gap.cause["sync"]
    frames = _frames(trace)
    grouped: dict[tuple[str, str, tuple[str, ...]], list[int]] = defaultdict(list)
    for at in waits:
        key = (
            trace.names[trace.runtime.name[at]],
            stage_at(int(trace.runtime.start[at])),
            _stack(trace, int(at), frames),
        )
        grouped[key].append(int(at))
    found = [
        SyncWait(
            name=name,
            stage=stage,
            count=len(calls),
            host_seconds=float(trace.runtime.duration[calls].sum()) * NANO,
            wall_seconds=sum(cost[at] for at in calls) * NANO,
            where=stack,
        )
        for (name, stage, stack), calls in grouped.items()
    ]
    return tuple(sorted(found, key=lambda wait: (-wait.wall_seconds, -wait.host_seconds)))


def _frames(trace: Trace) -> Ints:
    """Indices of the recorded Python frames outside torch."""
    return np.flatnonzero(trace.named(trace.host, _FRAME) & ~trace.named(trace.host, _TORCH))


def _stack(trace: Trace, wait: int, frames: Ints) -> tuple[str, ...]:
    start, end, thread = (
        int(column[wait]) for column in (trace.runtime.start, trace.runtime.end, trace.runtime.thread)
    )
    host = trace.host
    around = frames[(host.start[frames] <= start) & (host.end[frames] >= end) & (host.thread[frames] == thread)]
    return tuple(trace.names[host.name[at]] for at in around[::-1][:STACK_DEPTH])
