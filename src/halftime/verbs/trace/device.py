"""The device's time line: busy, idle, and what each idle gap waited for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from halftime.verbs.trace import vendors
from halftime.verbs.trace.read import NONE, Events, Ints, Trace, distinct

CAUSES = ("host", "sync", "allocator", "other")


@dataclass(frozen=True)
class Gaps:
    """Intervals in which no device had work, as columns in nanoseconds, in order.

    `host`, `sync`, `allocator` and `other` split each gap, in that order of time but for `sync`,
    which comes first.
    """

    start: Ints
    end: Ints
    before: Ints  # index of the device operation that ended it
    thread: Ints  # of the host that launched that operation; NONE if unknown
    wait: Ints  # index of the runtime call whose wait it follows, or NONE
    sync: Ints
    host: Ints
    allocator: Ints
    other: Ints

    def __len__(self) -> int:
        return len(self.start)

    def cause(self, name: str) -> Ints:
        """The share of each gap that has that cause."""
        column: Ints = getattr(self, name)
        return column

    def where(self, mask: Ints | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Gaps:
        """Those gaps alone."""
        return Gaps(**{column: values[mask] for column, values in vars(self).items()})

    def by_cause(self) -> dict[str, int]:
        """Nanoseconds by cause."""
        return {cause: int(self.cause(cause).sum()) for cause in CAUSES}


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

    def before(self, moments: Ints) -> Ints:
        """Busy nanoseconds until each moment."""
        if not len(self.start):
            return np.zeros(len(moments), np.int64)
        finished = np.concatenate(([0], np.cumsum(self.end - self.start)))
        at = np.searchsorted(self.start, moments, side="right")
        inside = (
            np.minimum(moments, self.end[np.maximum(at - 1, 0)]) - self.start[np.maximum(at - 1, 0)]
        )
        total: Ints = finished[np.maximum(at - 1, 0)] + np.where(at > 0, inside, 0)
        return total

    def within(self, start: Ints, end: Ints) -> Ints:
        """Busy nanoseconds inside each interval."""
        busy: Ints = self.before(end) - self.before(start)
        return busy


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
    """For each device operation the index of the runtime call that queued it, or NONE.

    Calls and operations share a correlation id on every vendor's profiler, so no names are needed.
    Of a runtime call and the driver's inside it, which have one id, the outer counts; of an id that
    is used again, in a second run or process, the last call that began before the operation.
    """
    calls = np.flatnonzero(trace.runtime.correlation != NONE)
    calls = _outer(
        trace.runtime, calls[np.argsort(trace.runtime.correlation[calls], kind="stable")]
    )
    ids, correlation = trace.runtime.correlation[calls], trace.device.correlation
    launched_by = np.full(len(trace.device), NONE, np.int64)
    if not len(ids):
        return launched_by
    at = np.minimum(np.searchsorted(ids, correlation), len(ids) - 1)
    matched = ids[at] == correlation
    if (ids[1:] == ids[:-1]).any():
        last = _last_before(ids, trace.runtime.start[calls], correlation, trace.device.start)
        at = np.where(
            ids[last] == correlation, last, at
        )  # by the clocks' error a call may seem late
    launched_by[matched] = calls[at[matched]]
    return launched_by


def _outer(runtime: Events, calls: Ints) -> Ints:
    """Without calls inside of others with their id; calls are in order of id and start."""
    while True:
        before, after = calls[:-1], calls[1:]
        nested = (
            (runtime.correlation[before] == runtime.correlation[after])
            & (runtime.thread[before] == runtime.thread[after])
            & (runtime.end[after] <= runtime.end[before])
        )
        if not nested.any():
            return calls
        calls = calls[np.concatenate(([True], ~nested))]


def _last_before(ids: Ints, start: Ints, correlation: Ints, moment: Ints) -> Ints:
    """For each operation the position of the last call with its id that began by its moment, or of
    any other call where there is none."""
    is_operation = np.repeat([False, True], [len(ids), len(correlation)])
    order = np.lexsort(
        (is_operation, np.concatenate((start, moment)), np.concatenate((ids, correlation)))
    )
    calls = np.maximum.accumulate(np.where(order < len(ids), np.arange(len(order)), 0))
    last = np.zeros(len(correlation), np.int64)
    operations = order >= len(ids)
    last[order[operations] - len(ids)] = order[calls[operations]]
    return np.minimum(last, len(ids) - 1)


def gaps(trace: Trace, launched_by: Ints) -> Gaps:
    """Every idle gap between the first and the last operation, split by cause.

    Until the call that launched the next operation ends, the device waits for the host. Had the
    host itself waited for the device when the queue ran dry, it would have been ahead by the time
    of that wait without it, and by no more: so much is 'sync'. Time in the driver's allocator is
    'allocator'; the rest was a host too slow, 'host'. What follows, from the end of the launching
    call to the operation's start, is 'other': launch latency, dependencies between streams.
    """
    merged = union(trace.device)
    start, end, op = merged.end[:-1], merged.start[1:], merged.first[1:]
    launch = launched_by[op]
    runtime, launched = trace.runtime, launch != NONE
    thread = np.full(len(launch), NONE, np.int64)
    ready = start.copy()
    thread[launched] = runtime.thread[launch[launched]]
    ready[launched] = np.clip(runtime.end[launch[launched]], start[launched], end[launched])
    late = ready - start
    wait, sync = _waits(trace, start, late, thread)
    allocator = np.minimum(_in_allocator(trace, thread, start, ready), late - sync)
    return Gaps(
        start=start,
        end=end,
        before=op,
        thread=thread,
        wait=wait,
        sync=sync,
        host=late - sync - allocator,
        allocator=allocator,
        other=end - ready,
    )


def _threads(trace: Trace, thread: Ints, calls: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For each thread the gaps that it ended, and those of the calls that are its own."""
    for number in distinct(thread):
        own = calls[trace.runtime.thread[calls] == number]
        if number != NONE and len(own):
            yield np.flatnonzero(thread == number), own


def _waits(trace: Trace, start: Ints, late: Ints, thread: Ints) -> tuple[Ints, Ints]:
    """The wait that was on when each gap began, or NONE, and what it can have cost."""
    wait = np.full(len(start), NONE, np.int64)
    sync = np.zeros(len(start), np.int64)
    waits = np.flatnonzero(trace.named(trace.runtime, vendors.WAIT))
    for own, calls in _threads(trace, thread, waits):
        at = np.searchsorted(trace.runtime.start[calls], start[own], side="right") - 1
        call = calls[np.maximum(at, 0)]
        on = (at >= 0) & (trace.runtime.end[call] >= start[own]) & (late[own] > 0)
        wait[own[on]] = call[on]
        sync[own[on]] = np.minimum(late[own[on]], trace.runtime.duration[call[on]])
    return wait, sync


def _in_allocator(trace: Trace, thread: Ints, start: Ints, end: Ints) -> Ints:
    """Nanoseconds of each interval that the launching thread spent in the driver's allocator."""
    inside = np.zeros(len(start), np.int64)
    calls = np.flatnonzero(trace.named(trace.runtime, vendors.ALLOCATOR))
    for own, allocations in _threads(trace, thread, calls):
        busy = union(trace.runtime.where(allocations))
        inside[own] = busy.within(start[own], end[own])
    return inside


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
