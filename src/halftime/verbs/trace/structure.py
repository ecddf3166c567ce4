"""A loop without any range: the stretch of the device's time line that repeats itself.

Operations of one graph replay count as one mark, whatever order its branches ran in. Repetitions
are compared as bags of operations, so a branch that ran earlier or an operation more does not end
the loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import median
from halftime.verbs.trace import vendors
from halftime.verbs.trace.read import NONE, Ints, Trace

FEWEST_STEPS = 3
# Two repetitions differ by less than this share of their operations.
ALIKE = 0.25
# Of marks that cover nearly the same time the rarest are the steps; the others are inside them.
NEARLY = 0.9
DIMENSIONS = 32


class KernelLoop(NamedTuple):
    """Repetitions: where each begins on the device, and where the last ends, in nanoseconds."""

    starts: tuple[int, ...]
    end: int

    @property
    def steps(self) -> int:
        return len(self.starts)


class _Marks(NamedTuple):
    """Operations as tokens: equal ones have equal numbers, and a graph's replay is one."""

    token: Ints
    start: Ints
    end: Ints


def find_loop(trace: Trace, launched_by: Ints) -> KernelLoop | None:
    """The repetition that covers most of the device's time; None without three of anything."""
    marks = _marks(trace, launched_by)
    if len(marks.token) < FEWEST_STEPS:
        return None
    # A bag of operations is a sum of their random vectors: equal bags are equal whatever the order.
    vectors = np.random.default_rng(0).choice([-1.0, 1.0], (int(marks.token.max()) + 1, DIMENSIONS))
    bags = np.concatenate((np.zeros((1, DIMENSIONS)), np.cumsum(vectors[marks.token], axis=0)))
    loops: list[tuple[int, KernelLoop]] = []
    for positions in _positions(marks.token):
        loop = _longest(marks, bags, positions)
        if loop is not None:
            loops.append((loop.end - loop.starts[0], loop))
    if not loops:
        return None
    most = max(covered for covered, _ in loops)
    wide = [loop for covered, loop in loops if covered >= NEARLY * most]
    fewest = min(loop.steps for loop in wide)
    # One more step may stand before the first mark of a token that comes late in the step.
    alike = [loop for loop in wide if loop.steps <= fewest + 1]
    return max(alike, key=lambda loop: (loop.end - loop.starts[0], -loop.starts[0]))


def _marks(trace: Trace, launched_by: Ints) -> _Marks:
    device = trace.device
    graph = np.zeros(len(device), bool)
    if len(trace.runtime):
        replays = trace.named(trace.runtime, vendors.GRAPH)
        graph = (launched_by != NONE) & replays[launched_by]
    # Of a replay only the first operation is a mark, which stands until the replay's last.
    first = np.ones(len(device), bool)
    end = device.end.copy()
    token = device.name.copy()
    if graph.any():
        members = np.flatnonzero(graph)
        _, begins, replay, sizes = np.unique(
            launched_by[members], return_index=True, return_inverse=True, return_counts=True
        )
        first[members] = False
        first[members[begins]] = True
        last = np.zeros(len(begins), np.int64)
        np.maximum.at(last, replay, device.end[members])
        end[members[begins]] = last
        # Replays of one graph have the same number of operations.
        token[members[begins]] = len(trace.names) + sizes
    standing = np.flatnonzero(first)
    _, token = np.unique(token[standing], return_inverse=True)
    return _Marks(token.astype(np.int64), device.start[standing], end[standing])


def _positions(token: Ints) -> list[Ints]:
    """Where each token stands, of those that stand at least three times."""
    order = np.argsort(token, kind="stable")
    edges = np.flatnonzero(np.diff(token[order])) + 1
    groups: list[Ints] = np.split(order, edges)
    return [group for group in groups if len(group) >= FEWEST_STEPS]


def _longest(marks: _Marks, bags: NDArray[np.float64], positions: Ints) -> KernelLoop | None:
    """The longest run of alike stretches that begin at a token's positions."""
    length = int(median(np.diff(positions)))
    # The last stretch has no following mark: it is taken as long as the others.
    edges = np.append(positions, min(positions[-1] + length, len(marks.token)))
    stretches = np.diff(bags[edges], axis=0)
    sizes = np.linalg.norm(stretches, axis=1)
    apart = np.linalg.norm(np.diff(stretches, axis=0), axis=1)
    alike = apart <= ALIKE * np.maximum(sizes[1:], sizes[:-1])
    begin, run = longest_run(alike)
    if run + 1 < FEWEST_STEPS:
        return None
    last = int(edges[begin + run + 1]) - 1
    starts = tuple(marks.start[edges[begin : begin + run + 1]].tolist())
    end = int(marks.end[int(edges[begin]) : last + 1].max())
    return KernelLoop(starts, end)


def longest_run(equal: NDArray[np.bool_]) -> tuple[int, int]:
    """Where the longest run of True begins, and its length."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.astype(np.int8), [0]))))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(lengths):
        return 0, 0
    at = int(lengths.argmax())
    return int(begins[at]), int(lengths[at])
