"""Two sessions of the same workload as one Report: speedup by stage, within its noise."""

from __future__ import annotations

from halftime.base import units
from halftime.base.stats import FEWEST, Interval, bounds_word, unpaired_ratio
from halftime.records import LedgerRow, Session
from halftime.report.model import Bullets, Cell, Column, Report, Section, Table, Text
from halftime.report.session import ledger_table


def comparison_of(baseline: Session, candidate: Session) -> Report:
    """Baseline against candidate, of one workload and machine; speedup = baseline / candidate."""
    interval = speedup(baseline, candidate)
    items = [
        Text(f"{which}: {doubt}", "warning")
        for which, s in (("baseline", baseline), ("now", candidate))
        for doubt in s.doubts
    ]
    name = candidate.pipeline or candidate.model or "One call"
    return Report(
        title=(
            f"{name}: {units.seconds(baseline.wall_seconds)} before, "
            f"{units.seconds(candidate.wall_seconds)} now"
        ),
        summary=verdict(interval, fewest_runs(baseline, candidate)),
        sections=(
            Section("By stage", (_table(baseline, candidate),)),
            *(
                [Section("How far to trust these numbers", (Bullets(tuple(items)),))]
                if items
                else []
            ),
            Section("Ledger now", (ledger_table(candidate),), console=False),
            Section("Ledger before", (ledger_table(baseline),), console=False),
        ),
    )


def speedup(baseline: Session, candidate: Session) -> Interval:
    """Ratio of the median wall clocks, with a bootstrap interval unless a side is a single call."""
    before = [run.wall_seconds for run in baseline.runs] or [baseline.wall_seconds]
    after = [run.wall_seconds for run in candidate.runs] or [candidate.wall_seconds]
    return unpaired_ratio(before, after)


def fewest_runs(baseline: Session, candidate: Session) -> int:
    """Of the two sessions', the fewer runs."""
    return min(len(session.runs) or 1 for session in (baseline, candidate))


def verdict(interval: Interval, runs: int = FEWEST) -> str:
    """One sentence: faster, slower, or within noise; or that a single call cannot say. `runs` is
    how many the side with fewer has."""
    if interval.low == interval.high:
        return (
            f"Speedup {units.ratio(interval.value)}, of a single call on one side: no "
            "interval, so it may be noise."
        )
    bounds = (
        f"{units.ratio(interval.value)} ({bounds_word(runs)} {units.ratio(interval.low)} to "
        f"{units.ratio(interval.high)})"
    )
    if interval.low <= 1 <= interval.high:
        return f"Speedup {bounds}: no difference beyond noise."
    word = "faster" if interval.value > 1 else "slower"
    return (
        f"Speedup {bounds}: {word} than the baseline. The two were not measured in turns, so "
        "drift is not excluded."
    )


def _table(baseline: Session, candidate: Session) -> Table:
    stages = list(
        dict.fromkeys(row.stage for session in (baseline, candidate) for row in session.ledger)
    )
    rows: list[tuple[Cell, ...]] = [
        _cells(stage, baseline.row(stage), candidate.row(stage)) for stage in stages
    ]
    rows.append(
        (
            "wall clock",
            baseline.wall_seconds,
            candidate.wall_seconds,
            baseline.wall_seconds / candidate.wall_seconds,
        )
    )
    columns = (
        Column("stage"),
        Column("before", "seconds"),
        Column("now", "seconds"),
        Column("speedup", "ratio"),
    )
    return Table(columns, tuple(rows), emphasis=frozenset({len(rows) - 1}))


def _cells(stage: str, before: LedgerRow | None, now: LedgerRow | None) -> tuple[Cell, ...]:
    ratio = before.seconds / now.seconds if before and now and now.seconds > 0 else None
    return stage, before.seconds if before else None, now.seconds if now else None, ratio
