"""Ranges and device operations as the ledger's tree: when was each part done, on the device where
there is one?

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
from halftime.verbs.trace.structure import Loop

BEFORE, AFTER = "before the steps", "after the steps"
NANO = 1e-9


# A stage from start to end, in nanoseconds of the trace.
Interval = tuple[str, int, int]


@dataclass(frozen=True)
class Call:
    """The traced call: its tree in seconds from its start, and its bounds in nanoseconds of the
    trace."""

    nodes: list[Node]
    start: int
    end: int
    host: list[Interval] = field(default_factory=list)  # stages by when the host was in them

    @property
    def wall_seconds(self) -> float:
        return (self.end - self.start) * NANO


def from_ranges(trace: Trace, found: list[Range], launched_by: Ints) -> Call:
    """The tree of recognised ranges."""
    done = _device_done(trace, launched_by)
    start = found[0].start
    end = max(done(max(each.end for each in found)), _last(trace))
    roots: list[Node] = []
    open_ranges: list[tuple[Range, Node]] = []
    for each in found:
        while open_ranges and open_ranges[-1][0].end <= each.start:
            open_ranges.pop()
        node = Node(
            each.place,
            each.name,
            (done(each.start) - start) * NANO,
            (done(each.end) - start) * NANO,
            (each.end - each.start) * NANO,
            each.step,
        )
        (open_ranges[-1][1].children if open_ranges else roots).append(node)
        open_ranges.append((each, node))
    return Call(with_loops(_flat(roots), []), start, end, _host_intervals(found))


def _host_intervals(found: list[Range]) -> list[Interval]:
    """Stages by the host's clock, which runs ahead of the device's; what lies between a loop's
    ranges is the loop's."""
    loop = [each for each in found if each.place.stage == LOOP.stage]
    own = [(each.place.stage, each.start, each.end) for each in found]
    return [*own, *([(LOOP.stage, loop[0].start, max(each.end for each in loop))] if loop else [])]


def _flat(nodes: list[Node]) -> list[Node]:
    """Transparent ranges of the denoising stage dissolved: the loop is made anew around their
    children."""
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
    """Moment on the host -> when the device has done all that was queued by then; never before the
    moment itself."""
    known = np.flatnonzero(launched_by != NONE)
    issued = trace.runtime.start[launched_by[known]]
    order = np.argsort(issued, kind="stable")
    issued = issued[order]
    reach = np.maximum.accumulate(trace.device.end[known][order]) if len(known) else issued

    def done(moment: int) -> int:
        at = int(np.searchsorted(issued, moment, side="left"))
        return max(moment, int(reach[at - 1])) if at else moment

    return done


def _last(trace: Trace) -> int:
    return int(trace.device.end.max()) if len(trace.device) else 0


def from_structure(trace: Trace, loop: Loop | None) -> Call:
    """Steps by repetition on the device; without one, everything is one stage."""
    device = trace.device
    if not len(device):
        events = [each for each in (trace.host, trace.runtime) if len(each)]
        start = min(int(each.start.min()) for each in events)
        return Call([], start, max(int(each.end.max()) for each in events))
    start, end = int(device.start.min()), int(device.end.max())
    if loop is None:
        return Call([], start, end)
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
    return Call(nodes, start, end)


def stage_intervals(call: Call) -> list[Interval]:
    """Stages by the ledger's clock, in order and apart: the tree's top level."""
    found: list[Interval] = []
    for node in call.nodes:
        low, high = (call.start + round(at / NANO) for at in (node.start, node.end))
        found.append((node.place.stage, low, high))
    return found
