"""The device's time line: busy, idle, and what each idle gap waited for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from halftime.verbs.trace.read import NONE, Events, Ints, Trace

# Runtime calls that queue work, and those in which the host waits for the device (CUDA and HIP
# names alike).
LAUNCH = re.compile(
    r"LaunchKernel|GraphLaunch|(Memcpy|Memset).*Async|^(cuda|hip|cu)(Memcpy|Memset)|LaunchCooperative"
)
WAIT = re.compile(
    r"(Stream|Device|Event|Ctx)Synchronize|^(cuda|hip)Memcpy(_v\d+)?$|hipMemcpyWithStream|^(cuda|hip)Memcpy2D$"
)
GRAPH = re.compile(r"GraphLaunch")
CAUSES = ("host", "sync", "other")


@dataclass(frozen=True)
class Gap:
    """An interval, in nanoseconds, without work on any stream; `cause` splits it by name."""

    start: int
    end: int
    before: int  # index of the device operation that ended it
    cause: dict[str, int]
    sync: int = NONE  # index of the runtime call whose wait it follows


@dataclass(frozen=True)
class Union:
    """Disjoint busy intervals in order, with the operation that begins each."""

    start: Ints
    end: Ints
    first: Ints

    @property
    def busy(self) -> int:
        return int((self.end - self.start).sum())

    @property
    def span(self) -> int:
        return int(self.end[-1] - self.start[0]) if len(self.start) else 0


def union(events: Events) -> Union:
    """Merge overlapping operations of all streams; events are in order of their start."""
    if not len(events):
        empty = np.zeros(0, np.int64)
        return Union(empty, empty, empty)
    reach = np.maximum.accumulate(events.end)
    begins = np.concatenate(([True], events.start[1:] > reach[:-1]))
    first = np.flatnonzero(begins)
    last = np.concatenate((first[1:] - 1, [len(events) - 1]))
    return Union(events.start[first], reach[last], first)


def launches(trace: Trace) -> Ints:
    """For each device operation the index of the runtime call that queued it, or NONE."""
    calls = np.flatnonzero(trace.named(trace.runtime, LAUNCH) & (trace.runtime.correlation != NONE))
    ids = trace.runtime.correlation[calls]
    order = np.argsort(ids, kind="stable")
    ids, calls = ids[order], calls[order]
    launched_by = np.full(len(trace.device), NONE, np.int64)
    if len(ids):
        at = np.minimum(np.searchsorted(ids, trace.device.correlation), len(ids) - 1)
        matched = ids[at] == trace.device.correlation
        launched_by[matched] = calls[at[matched]]
    return launched_by


def gaps(trace: Trace, launched_by: Ints) -> list[Gap]:
    """Every idle gap between the first and the last operation, split by cause.

    Until the call that launched the next operation ends, the device waits for the host: because the
    host had itself waited for the device when the queue ran dry ('sync'), or because it was slow
    ('host'). What is left, from the end of that call to the operation's start, is 'other': launch
    latency, dependencies between streams.
    """
    merged = union(trace.device)
    waits = np.flatnonzero(trace.named(trace.runtime, WAIT))
    return [
        _gap(trace, int(start), int(end), int(op), int(launched_by[op]), waits)
        for start, end, op in zip(merged.end[:-1], merged.start[1:], merged.first[1:], strict=True)
    ]


def _gap(trace: Trace, start: int, end: int, op: int, launch: int, waits: Ints) -> Gap:
    if launch == NONE:
        return Gap(start, end, op, {"other": end - start})
    runtime = trace.runtime
    ready = min(max(int(runtime.end[launch]), start), end)
    late, after = ready - start, end - ready
    if not late:
        return Gap(start, end, op, {"other": after})
    # The wait that was on when the queue ran dry, on the thread that launched what came next.
    on = waits[
        (runtime.thread[waits] == runtime.thread[launch])
        & (runtime.start[waits] <= start)
        & (runtime.end[waits] >= start)
    ]
    sync = int(on[-1]) if len(on) else NONE
    return Gap(start, end, op, {"sync" if sync != NONE else "host": late, "other": after}, sync)


def queue_depth(trace: Trace, launched_by: Ints) -> Ints:
    """For each recorded launch: how many operations were queued or running at its end."""
    matched = launched_by != NONE
    ends = np.sort(trace.device.end[matched])
    issued = np.sort(trace.runtime.end[launched_by[matched]])
    return np.arange(1, len(issued) + 1) - np.searchsorted(ends, issued, side="right")


def launch_latency(trace: Trace, launched_by: Ints) -> Ints:
    """Nanoseconds from the end of a launching call to the operation's start, on an idle device."""
    merged = union(trace.device)
    firsts = merged.first[launched_by[merged.first] != NONE] if len(merged.first) else merged.first
    waited = trace.device.start[firsts] - trace.runtime.end[launched_by[firsts]]
    return waited[waited >= 0]
