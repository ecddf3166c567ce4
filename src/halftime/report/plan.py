"""A plan as a Report: the best ways first, then what rules out the rest."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records.plan import DeploymentPlan, PlanRow
from halftime.report.model import (
    Bullets,
    Cell,
    Column,
    Entries,
    Entry,
    Report,
    Section,
    Table,
    Text,
    rows_of,
)

_COLUMNS = (
    Column("precision"),
    Column("offload"),
    Column("how"),
    Column("seconds", "seconds"),
    Column("90 % band"),
    Column("of them moving", "seconds", wide=True),
    Column("peak memory", "bytes"),
    Column("a picture", wide=True),
)


def report_of(plan: DeploymentPlan) -> Report:
    """The best first."""
    cards = f"{plan.cards} x " if plan.cards > 1 else ""
    return Report(
        title=f"{plan.model} on {cards}{plan.card}",
        summary=_summary(plan),
        sections=tuple(section for section in _sections(plan) if section.blocks),
    )


def _summary(plan: DeploymentPlan) -> str:
    frames = f", {plan.frames} frames" if plan.frames > 1 else ""
    call = f"{plan.width}x{plan.height}{frames}, {plan.steps} steps"
    if not plan.best:
        return f"Nothing fits: {call} on {units.size(plan.gpu_memory_bytes)}."
    first = plan.best[0]
    text = (
        f"{first.precision}{_and(first)}: {units.seconds(first.seconds)} "
        f"({units.seconds(first.low)} to {units.seconds(first.high)}) for one warm call of {call}, "
        f"{units.size(first.memory_bytes)} at its peak."
    )
    if plan.target_seconds is not None and not first.meets_target:
        text += f" Nothing meets the target of {units.seconds(plan.target_seconds)}."
    return text


def _and(row: PlanRow) -> str:
    parts = [
        "compiled" if row.compiled else "",
        "" if row.offload == "none" else f"{row.offload} offload",
        _how(row),
    ]
    return "".join(f", {part}" for part in dict.fromkeys(parts) if part and part != "eager")


def _how(row: PlanRow) -> str:
    parts = [
        "compiled" if row.compiled else "eager",
        "tiled decode" if row.tiled else "",
        "" if row.parallel == "none" else f"{row.parallel} parallel",
        "" if row.cache == "none" else row.cache,
    ]
    return ", ".join(part for part in parts if part)


def _sections(plan: DeploymentPlan) -> Iterator[Section]:
    if plan.best:
        yield Section("Best first", (_table(plan.best),))
    if plan.ruled_out:
        yield Section(
            "What rules out the rest",
            (Entries(tuple(Entry(out.what, "", out.why) for out in plan.ruled_out)),),
        )
    if plan.others:
        yield Section("All others", (_table(plan.others),), console=False)
    yield Section("How far to trust this", (Bullets(tuple(Text(note) for note in plan.notes)),))


def _table(rows: tuple[PlanRow, ...]) -> Table:
    def cells(row: PlanRow) -> tuple[Cell, ...]:
        return (
            row.precision,
            row.offload,
            _how(row) + ("" if row.fits else ", does not fit"),
            row.seconds,
            f"{units.seconds(row.low)} to {units.seconds(row.high)}",
            row.transfer_seconds or None,
            row.memory_bytes,
            units.NOTHING if row.per_picture is None else f"{row.per_picture:.2g}",
        )

    return Table(_COLUMNS, rows_of(*map(cells, rows)))
