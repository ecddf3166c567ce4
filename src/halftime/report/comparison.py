"""Two sessions of the same workload as one Report: speedup by stage, with what noise allows to
say."""

from __future__ import annotations

from halftime.base import units
from halftime.base.stats import Interval, unpaired_ratio
from halftime.records import LedgerRow, Session
from halftime.report.model import Bullets, Cell, Column, Report, Section, Table, Text
from halftime.report.session import ledger_table


def comparison_of(base: Session, other: Session) -> Report:
    """Baseline against candidate; speedup = baseline / candidate. The two must be alike in workload
    and machine."""
    interval = speedup(base, other)
    items = [
        Text(f"{which}: {doubt}", "warning")
        for which, s in (("baseline", base), ("now", other))
        for doubt in s.doubts
    ]
    name = other.pipeline or other.model or "One call"
    return Report(
        title=(
            f"{name}: {units.seconds(base.wall_seconds)} before, "
            f"{units.seconds(other.wall_seconds)} now"
        ),
        summary=verdict(interval),
        sections=(
            Section("By stage", (_table(base, other),)),
            *(
                [Section("How far to trust these numbers", (Bullets(tuple(items)),))]
                if items
                else []
            ),
            Section("Ledger now", (ledger_table(other),), console=False),
            Section("Ledger before", (ledger_table(base),), console=False),
        ),
    )


def speedup(base: Session, other: Session) -> Interval:
    """Ratio of the median wall clocks with its bootstrap interval; without one where a side is a
    single call."""
    before = [run.wall_seconds for run in base.runs] or [base.wall_seconds]
    after = [run.wall_seconds for run in other.runs] or [other.wall_seconds]
    return unpaired_ratio(before, after)


def verdict(interval: Interval) -> str:
    """One sentence: faster, slower, or within noise; or that a single call cannot say."""
    if interval.low == interval.high:
        return (
            f"Speedup {units.ratio(interval.value)}, of a single call on one side: no "
            "interval, so it may be noise."
        )
    bounds = (
        f"{units.ratio(interval.value)} (95 % interval {units.ratio(interval.low)} to "
        f"{units.ratio(interval.high)})"
    )
    if interval.low <= 1 <= interval.high:
        return f"Speedup {bounds}: no difference beyond noise."
    word = "faster" if interval.value > 1 else "slower"
    return (
        f"Speedup {bounds}: {word} than the baseline. The two were not measured in turns, so "
        "drift is not excluded."
    )


def _table(base: Session, other: Session) -> Table:
    stages = list(dict.fromkeys(row.stage for session in (base, other) for row in session.ledger))
    rows: list[tuple[Cell, ...]] = [
        _cells(stage, base.row(stage), other.row(stage)) for stage in stages
    ]
    rows.append(
        (
            "wall clock",
            base.wall_seconds,
            other.wall_seconds,
            base.wall_seconds / other.wall_seconds,
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
