"""Several ranks of one run: which of them the others wait for in collectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halftime.base import units
from halftime.records import Finding, Session, TracedRank
from halftime.records.finding import ceiling
from halftime.verbs.trace.movement import communicates
from halftime.verbs.trace.read import Ints, Trace

NANO = 1e-9
WORTH_SAYING = 0.02


def is_one_run(traces: Sequence[Trace]) -> bool:
    """Whether the files say that they are different ranks of one run."""
    ranks = [trace.rank for trace in traces]
    worlds = {trace.world_size for trace in traces}
    return None not in ranks and len(set(ranks)) == len(ranks) and len(worlds) == 1


def rank_rows(readings: Sequence[tuple[Trace, Session]]) -> tuple[TracedRank, ...]:
    """One row a rank, in order.

    All ranks leave a collective together, so the one that came last spends least time in it; what
    the others spend longer they waited. Collectives are matched by their order.
    """
    durations = [_durations(trace) for trace, _ in readings]
    matched = min(len(lengths) for lengths in durations)
    table = np.array([lengths[:matched] for lengths in durations])
    waited = (table - table.min(axis=0)).sum(axis=1) if matched else np.zeros(len(readings))
    rows = [
        TracedRank(
            rank=trace.rank or 0,
            wall_seconds=session.wall_seconds,
            busy_seconds=session.device.busy_seconds if session.device else 0.0,
            communication_seconds=float(lengths.sum()) * NANO,
            waited_seconds=float(waited[at]) * NANO,
        )
        for at, ((trace, session), lengths) in enumerate(zip(readings, durations, strict=True))
    ]
    return tuple(sorted(rows, key=lambda row: row.rank))


def _durations(trace: Trace) -> Ints:
    return trace.device.duration[communicates(trace)]


def rank_finding(rows: Sequence[TracedRank], wall: float) -> Finding | None:
    """Who waits for whom, where it is worth saying."""
    if len(rows) < 2:
        return None
    last = min(rows, key=lambda row: row.waited_seconds)
    most = max(rows, key=lambda row: row.waited_seconds)
    if most.waited_seconds < WORTH_SAYING * wall:
        return None
    return Finding(
        id="rank-waits",
        stage="denoise",
        seconds=most.waited_seconds,
        ceiling=ceiling(most.waited_seconds, wall),
        message=f"rank {most.rank} waits {units.seconds(most.waited_seconds)} in collectives for "
        f"ranks that come later, rank {last.rank} (the last) "
        f"{units.seconds(last.waited_seconds)}: their work is uneven",
    )
