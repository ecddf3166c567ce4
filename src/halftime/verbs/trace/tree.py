"""Ranges and device operations as the ledger's tree, by the device's clock where there is one.

A moment on the host is, for the ledger, when the device has done all that was queued until then
(what an event recorded at that moment would say), so rows add up to the wall clock here as they do
in `halftime profile`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from halftime.base.ledger import LOOP, STEP, Node, with_loops
from halftime.records.stages import Place
from halftime.verbs.trace.places import Range, Ranges
from halftime.verbs.trace.read import NONE, Ints, Trace
from halftime.verbs.trace.structure import KernelLoop

BEFORE, AFTER = "before the steps", "after the steps"
# A repetition in a recording that shows nothing of a diffusion pipeline.
GUESS = "steps (a guess)"
NANO = 1e-9


# A stage from start to end, in nanoseconds of the trace.
Interval = tuple[str, int, int]


@dataclass(frozen=True)
class TracedCall:
    """One traced call: its tree in seconds, its bounds in nanoseconds of the trace."""

    nodes: list[Node]
    start: int
    end: int
    host: list[Interval] = field(default_factory=list)  # stages by when the host was in them

    @property
    def wall_seconds(self) -> float:
        return (self.end - self.start) * NANO


def from_ranges(trace: Trace, calls: Sequence[Ranges], launched_by: Ints) -> list[TracedCall]:
    """The trees of recognised ranges, one a call."""
    device_done = _device_done(trace, launched_by)
    first = _first_work(trace, launched_by)
    last = int(trace.device.end.max()) if len(trace.device) else 0
    result: list[TracedCall] = []
    for at, call in enumerate(calls):
        start, end = call.start, call.end
        if start is None:
            # Without a frame around the call it starts with the first event that counts, which
            # may be an operation before the first range.
            start = min(call.ranges[0].start, first if at == 0 else call.ranges[0].start)
        if end is None:
            end = max(range_.end for range_ in call.ranges)
        end = int(device_done(np.array([end]))[0])
        if call.end is None and at == len(calls) - 1:
            end = max(end, last)
        if result:
            start = max(start, result[-1].end)
        result.append(_tree(call.ranges, start, max(start, end), device_done))
    return result


def _first_work(trace: Trace, launched_by: Ints) -> int:
    """When the first device operation began, or was launched where that is known."""
    if not len(trace.device):
        return np.iinfo(np.int64).max
    matched = launched_by[launched_by != NONE]
    launched = int(trace.runtime.start[matched].min()) if len(matched) else np.iinfo(np.int64).max
    return min(int(trace.device.start[0]), launched)


def _tree(
    ranges: Sequence[Range], start: int, end: int, device_done: Callable[[Ints], Ints]
) -> TracedCall:
    roots: list[Node] = []
    open_ranges: list[tuple[Range, Node]] = []

    moments = np.array([(range_.start, range_.end) for range_ in ranges], np.int64).reshape(-1, 2)
    reached = (device_done(moments).clip(start, end) - start) * NANO
    for range_, (begun, ended) in zip(ranges, reached.tolist(), strict=True):
        while open_ranges and open_ranges[-1][0].end <= range_.start:
            open_ranges.pop()
        node = Node(
            range_.home,
            range_.name,
            begun,
            ended,
            (range_.end - range_.start) * NANO,
            range_.step,
        )
        (open_ranges[-1][1].children if open_ranges else roots).append(node)
        open_ranges.append((range_, node))
    return TracedCall(with_loops(_flat(roots), []), start, end, _host_intervals(ranges))


def _host_intervals(ranges: Sequence[Range]) -> list[Interval]:
    """Stages by the host's clock; what lies between the ranges of a loop belongs to the loop."""
    own = [(range_.home.stage, range_.start, range_.end) for range_ in ranges]
    loop = [interval for interval in own if interval[0] == LOOP.stage]
    if not loop:
        return own
    return [*own, (LOOP.stage, loop[0][1], max(end for _, _, end in loop))]


def _flat(nodes: list[Node]) -> list[Node]:
    """Without transparent denoising ranges: the loop is rebuilt around their children."""
    return [
        inner
        for node in nodes
        for inner in (
            _flat(node.children)
            if node.place.stage == LOOP.stage and not node.place.part
            else [node]
        )
    ]


def _device_done(trace: Trace, launched_by: Ints) -> Callable[[Ints], Ints]:
    """Moments on the host -> when the device has done all work queued by then, if later."""
    matched = np.flatnonzero(launched_by != NONE)
    issued = trace.runtime.start[launched_by[matched]]
    order = np.argsort(issued, kind="stable")
    issued = issued[order]
    never = np.array([np.iinfo(np.int64).min])
    reach = np.maximum.accumulate(np.concatenate((never, trace.device.end[matched][order])))

    def device_done(moments: Ints) -> Ints:
        return np.maximum(moments, reach[issued.searchsorted(moments, side="left")])

    return device_done


def from_structure(trace: Trace, loop: KernelLoop | None, stage: str) -> TracedCall:
    """Steps by repetition on the device, as `stage`; without one, everything is one stage."""
    device = trace.device
    if not len(device):
        tables = [events for events in (trace.host, trace.runtime) if len(events)]
        start = min(int(events.start.min()) for events in tables)
        return TracedCall([], start, max(int(events.end.max()) for events in tables))
    start, end = int(device.start.min()), int(device.end.max())
    if loop is None:
        return TracedCall([], start, end)
    cuts = [*loop.starts, loop.end]
    steps = [
        Node(
            Place(stage, "denoiser" if stage == LOOP.stage else "step"),
            STEP,
            (low - start) * NANO,
            (high - start) * NANO,
            step=step,
        )
        for step, (low, high) in enumerate(itertools.pairwise(cuts))
    ]
    nodes = [Node(Place(stage, ""), LOOP.part, steps[0].start, steps[-1].end, children=steps)]
    if cuts[0] > start:
        nodes.insert(0, Node(Place(BEFORE, "device"), BEFORE, 0.0, (cuts[0] - start) * NANO))
    if cuts[-1] < end:
        nodes.append(
            Node(Place(AFTER, "device"), AFTER, (cuts[-1] - start) * NANO, (end - start) * NANO)
        )
    return TracedCall(nodes, start, end)


def stage_intervals(call: TracedCall) -> list[Interval]:
    """Stages by the ledger's clock, in order and apart: the tree's top level."""
    intervals: list[Interval] = []
    for node in call.nodes:
        low, high = (call.start + round(at / NANO) for at in (node.start, node.end))
        intervals.append((node.place.stage, low, high))
    return intervals


def outside_intervals(call: TracedCall, name: str) -> list[Interval]:
    """What of a call lies in none of its stages, as intervals of that name."""
    intervals: list[Interval] = []
    reach = call.start
    for _, start, end in [*stage_intervals(call), ("", call.end, call.end)]:
        if start > reach:
            intervals.append((name, reach, start))
        reach = max(reach, end)
    return intervals
