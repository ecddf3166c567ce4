"""Ranges and device operations as the ledger's tree, by the device's clock where there is one.

A moment on the host is, for the ledger, when the device has done all that was queued until then
(what an event recorded at that moment would say), so rows add up to the wall clock here as they do
in `halftime profile`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from halftime.base.ledger import LOOP, STEP, Node, with_loops
from halftime.records.stages import Place
from halftime.verbs.trace.places import Range
from halftime.verbs.trace.read import NONE, Ints, Trace
from halftime.verbs.trace.structure import KernelLoop

BEFORE, AFTER = "before the steps", "after the steps"
NANO = 1e-9


# A stage from start to end, in nanoseconds of the trace.
Interval = tuple[str, int, int]


@dataclass(frozen=True)
class TracedCall:
    """The traced call: its tree in seconds, its bounds in nanoseconds of the trace."""

    nodes: list[Node]
    start: int
    end: int
    host: list[Interval] = field(default_factory=list)  # stages by when the host was in them

    @property
    def wall_seconds(self) -> float:
        return (self.end - self.start) * NANO


def from_ranges(trace: Trace, ranges: list[Range], launched_by: Ints) -> TracedCall:
    """The tree of recognised ranges."""
    device_done = _device_done(trace, launched_by)
    start = ranges[0].start
    end = max(device_done(max(range_.end for range_ in ranges)), _last(trace))
    roots: list[Node] = []
    open_ranges: list[tuple[Range, Node]] = []
    for range_ in ranges:
        while open_ranges and open_ranges[-1][0].end <= range_.start:
            open_ranges.pop()
        node = Node(
            range_.home,
            range_.name,
            (device_done(range_.start) - start) * NANO,
            (device_done(range_.end) - start) * NANO,
            (range_.end - range_.start) * NANO,
            range_.step,
        )
        (open_ranges[-1][1].children if open_ranges else roots).append(node)
        open_ranges.append((range_, node))
    return TracedCall(with_loops(_flat(roots), []), start, end, _host_intervals(ranges))


def _host_intervals(ranges: list[Range]) -> list[Interval]:
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


def _device_done(trace: Trace, launched_by: Ints) -> Callable[[int], int]:
    """Moment on the host -> when the device has done all work queued by then, if later."""
    matched = np.flatnonzero(launched_by != NONE)
    issued = trace.runtime.start[launched_by[matched]]
    order = np.argsort(issued, kind="stable")
    issued = issued[order]
    reach = np.maximum.accumulate(trace.device.end[matched][order]) if len(matched) else issued

    def device_done(moment: int) -> int:
        at = int(np.searchsorted(issued, moment, side="left"))
        return max(moment, int(reach[at - 1])) if at else moment

    return device_done


def _last(trace: Trace) -> int:
    return int(trace.device.end.max()) if len(trace.device) else 0


def from_structure(trace: Trace, loop: KernelLoop | None) -> TracedCall:
    """Steps by repetition on the device; without one, everything is one stage."""
    device = trace.device
    if not len(device):
        tables = [events for events in (trace.host, trace.runtime) if len(events)]
        start = min(int(events.start.min()) for events in tables)
        return TracedCall([], start, max(int(events.end.max()) for events in tables))
    start, end = int(device.start.min()), int(device.end.max())
    if loop is None:
        return TracedCall([], start, end)
    first = [loop.begin + loop.period * step for step in range(loop.steps)]
    after = loop.begin + loop.period * loop.steps
    cuts = [int(device.start[at]) for at in first] + [int(device.end[:after].max())]
    steps = [
        Node(
            Place("denoise", "denoiser"),
            STEP,
            (low - start) * NANO,
            (high - start) * NANO,
            step=step,
        )
        for step, (low, high) in enumerate(itertools.pairwise(cuts))
    ]
    nodes = [Node(Place("denoise", ""), LOOP.part, steps[0].start, steps[-1].end, children=steps)]
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
