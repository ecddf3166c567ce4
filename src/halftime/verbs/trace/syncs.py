"""Each place where the host waited for the device: how long, and what that can have cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from halftime.records import SyncWait
from halftime.verbs.trace import vendors
from halftime.verbs.trace.device import Gaps
from halftime.verbs.trace.frames import stacks
from halftime.verbs.trace.read import NONE, Trace
from halftime.verbs.trace.stages import stages_at
from halftime.verbs.trace.tree import Interval

NANO = 1e-9


def syncs(trace: Trace, idle: Gaps, intervals: Sequence[Interval]) -> tuple[SyncWait, ...]:
    """Waits by call, stage and Python stack, the costliest first.

    `host_seconds` is what the host waited. Most of it is hidden where the device works meanwhile;
    `wall_seconds` is what removing the waits could save at most: of the idle time that followed
    each, as much as the host had waited.
    """
    waits = np.flatnonzero(trace.named(trace.runtime, vendors.WAIT))
    cost = np.zeros(len(trace.runtime), np.int64)
    blamed = idle.wait != NONE
    np.add.at(cost, idle.wait[blamed], idle.sync[blamed])
    stages = stages_at(trace.runtime.start[waits], intervals)
    grouped: dict[tuple[str, str, tuple[str, ...]], list[int]] = defaultdict(list)
    for at, stage, stack in zip(waits.tolist(), stages, stacks(trace, waits), strict=True):
        grouped[trace.names[trace.runtime.name[at]], stage, stack].append(at)
    rows = [
        SyncWait(
            name=name,
            stage=stage,
            count=len(calls),
            host_seconds=float(trace.runtime.duration[calls].sum()) * NANO,
            wall_seconds=float(cost[calls].sum()) * NANO,
            where=stack,
        )
        for (name, stage, stack), calls in grouped.items()
    ]
    return tuple(sorted(rows, key=lambda wait: (-wait.wall_seconds, -wait.host_seconds)))
