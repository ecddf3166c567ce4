"""Several ranks of one run: which of them the others wait for in collectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halftime.base import units
from halftime.records import Finding, Session, TracedRank
from halftime.records.finding import ceiling
from halftime.verbs.trace.movement import communicates
from halftime.verbs.trace.read import Ints, Trace, distinct

NANO = 1e-9
WORTH_SAYING = 0.02


def is_one_run(traces: Sequence[Trace]) -> bool:
    """Whether the files say that they are different ranks of one run."""
    ranks = [trace.rank for trace in traces]
    worlds = {trace.world_size for trace in traces}
    return None not in ranks and len(set(ranks)) == len(ranks) and len(worlds) == 1


def rank_rows(readings: Sequence[tuple[Trace, Session]], table: Ints) -> tuple[TracedRank, ...]:
    """One row a rank, in order; `table` holds the collectives that are `matched`.

    All ranks leave a collective together, so the one that came last spends least time in it; what
    the others spend longer they waited.
    """
    waited = (table - table.min(axis=0)).sum(axis=1) if table.size else np.zeros(len(readings))
    rows = [
        TracedRank(
            rank=trace.rank or 0,
            wall_seconds=session.wall_seconds,
            busy_seconds=session.device.busy_seconds if session.device else 0.0,
            communication_seconds=float(trace.device.duration[communicates(trace)].sum()) * NANO,
            waited_seconds=float(waited[at]) * NANO,
        )
        for at, (trace, session) in enumerate(readings)
    ]
    return tuple(sorted(rows, key=lambda row: row.rank))


def unmatched(traces: Sequence[Trace], table: Ints) -> int:
    """How many collectives of the rank with most of them have no counterpart on each other rank."""
    most = max(int(communicates(trace).sum()) for trace in traces)
    return most - len(table[0])


def matched(traces: Sequence[Trace]) -> Ints:
    """The durations of the collectives that all ranks have, a row a rank and a column each.

    They are matched by name, in their order. Where ranks have unequal numbers of a name, nobody
    knows which belong together; but a file that was cut off lacks its last ones.
    """
    by_name = [_by_name(trace) for trace in traces]
    cut = any(trace.cut for trace in traces)
    columns = [np.zeros((len(traces), 0), np.int64)]
    for name in by_name[0]:
        rows = [own.get(name, np.zeros(0, np.int64)) for own in by_name]
        counts = {len(row) for row in rows}
        if len(counts) == 1 or cut:
            columns.append(np.array([row[: min(counts)] for row in rows]))
    return np.concatenate(columns, axis=1)


def _by_name(trace: Trace) -> dict[str, Ints]:
    """Durations of collectives, in order."""
    own = trace.device.where(communicates(trace))
    return {trace.names[at]: own.duration[own.name == at] for at in distinct(own.name)}


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
