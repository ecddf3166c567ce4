"""Each place where the host waited for the device: how long, and what that cost the device."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from halftime.records import SyncWait
from halftime.verbs.trace.device import WAIT, Gap
from halftime.verbs.trace.read import NONE, Ints, Trace
from halftime.verbs.trace.stages import stages_at
from halftime.verbs.trace.tree import Interval

NANO = 1e-9
STACK_DEPTH = 6
_FRAME = re.compile(r"\.py\(\d+\): ")
# Frames of torch itself say nothing about whose fault a wait is.
_TORCH = re.compile(r"(^|/)torch/|contextlib\.py|_tensor\.py|module\.py\(")


def syncs(trace: Trace, idle: Sequence[Gap], intervals: Sequence[Interval]) -> tuple[SyncWait, ...]:
    """Waits by call, stage and Python stack, the costliest first.

    `host_seconds` is what the host waited. Most of it is hidden where the device works meanwhile;
    `wall_seconds`, the true cost, is how long the device then stood idle until the host had sent it
    something new.
    """
    waits = np.flatnonzero(trace.named(trace.runtime, WAIT))
    cost: dict[int, int] = defaultdict(int)
    for gap in idle:
        if gap.sync != NONE:
            cost[gap.sync] += gap.cause["sync"]
    stages = stages_at(trace.runtime.start[waits], intervals)
    stacks = _stacks(trace, waits)
    grouped: dict[tuple[str, str, tuple[str, ...]], list[int]] = defaultdict(list)
    for at, stage, stack in zip(waits.tolist(), stages, stacks, strict=True):
        grouped[trace.names[trace.runtime.name[at]], stage, stack].append(at)
    rows = [
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
    return tuple(sorted(rows, key=lambda wait: (-wait.wall_seconds, -wait.host_seconds)))


def _stacks(trace: Trace, waits: Ints) -> list[tuple[str, ...]]:
    """For each wait the Python frames around it outside torch, innermost first."""
    host, runtime = trace.host, trace.runtime
    frames = host.where(trace.named(host, _FRAME) & ~trace.named(host, _TORCH))
    stacks: list[tuple[str, ...]] = []
    # thread -> frames by end, the innermost last
    open_frames: dict[int, list[tuple[int, str]]] = defaultdict(list)
    opened = 0
    for at in waits.tolist():
        moment, thread = int(runtime.start[at]), int(runtime.thread[at])
        while opened < len(frames) and frames.start[opened] <= moment:
            stack = open_frames[int(frames.thread[opened])]
            while stack and stack[-1][0] <= frames.start[opened]:
                stack.pop()
            stack.append((int(frames.end[opened]), trace.names[frames.name[opened]]))
            opened += 1
        mine = [name for end, name in open_frames[thread] if end >= runtime.end[at]]
        stacks.append(tuple(mine[::-1][:STACK_DEPTH]))
    return stacks
