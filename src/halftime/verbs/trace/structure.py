"""Steps without any range: a loop is the longest stretch of operations with one period."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from halftime.verbs.trace.read import Ints

FEWEST_STEPS = 3
CANDIDATES = 24


class KernelLoop(NamedTuple):
    """Operations [begin, begin + period * steps) are `steps` repetitions of `period` operations."""

    begin: int
    period: int
    steps: int


def find_loop(names: Ints) -> KernelLoop | None:
    """The repetition that covers most operations; None where nothing repeats at least three times.

    Layers of one network repeat too, but only until the step's first and last operations interrupt
    them, so the period with the longest unbroken run is the step's. Of equally long runs the
    shortest period counts.
    """
    best: KernelLoop | None = None
    covered = 0
    for period in _candidate_periods(names):
        begin, length = _longest_run(names[:-period] == names[period:])
        steps = length // period + 1
        if steps >= FEWEST_STEPS and length + period > covered:
            best, covered = KernelLoop(begin, period, steps), length + period
    return best


def _candidate_periods(names: Ints) -> list[int]:
    """Distances between occurrences of the rarer names, the most frequent first by how much they
    could cover."""
    votes: dict[int, int] = {}
    for name in np.unique(names):
        distances = np.diff(np.flatnonzero(names == name))
        if len(distances) < FEWEST_STEPS - 1:
            continue
        for period, count in zip(*np.unique(distances, return_counts=True), strict=True):
            votes[int(period)] = votes.get(int(period), 0) + int(count) * int(period)
    ranked = sorted(votes, key=lambda period: (-votes[period], period))[:CANDIDATES]
    return sorted(period for period in ranked if period < len(names))


def _longest_run(equal: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.astype(np.int8), [0]))))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(lengths):
        return 0, 0
    at = int(lengths.argmax())
    return int(begins[at]), int(lengths[at])
