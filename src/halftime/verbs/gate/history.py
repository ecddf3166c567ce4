"""The history: a line for each verdict, in a file that grows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from halftime.base.environment import PACKAGES
from halftime.base.lines import read_lines
from halftime.records.base import content_hash
from halftime.records.gate import Gate, PastGate

MOST = 200  # verdicts of the past that a record takes along


def line_of(record: Gate, recipe: str | None = None) -> PastGate:
    """What a history keeps of a gate."""
    facts = record.candidate.facts
    counts = {c.name: c.candidate for c in record.counters if c.candidate is not None}
    return PastGate(
        created=record.created,
        halftime=record.halftime,
        question=content_hash((record.model, recipe, record.workload)),
        model=record.model,
        machine=_machine(facts),
        base=record.base.label,
        candidate=record.candidate.label,
        commit=record.candidate.commit,
        versions={
            name: facts[f"versions.{name}"] for name in PACKAGES if f"versions.{name}" in facts
        },
        verdict=record.verdict,
        reason=next(iter((*record.objections, *record.reasons)), record.would_decide),
        accepted=tuple(line.reason for line in record.accepted),
        speed=record.speed,
        ratio=record.ratio,
        low=record.low,
        high=record.high,
        alpha=record.alpha,
        margin=record.margin,
        base_seconds=record.wall_seconds,
        stage_seconds={stage.stage: stage.candidate_seconds for stage in record.stages},
        counts=counts,
        pictures=record.pictures.verdict if record.pictures else "",
        spent_seconds=record.spent_seconds,
    )


def _machine(facts: dict[str, str]) -> str:
    device = facts.get("device", "")
    processor = f"{facts.get('processor', 'unknown')}, {facts.get('cores', '?')} cores"
    return (
        processor if device in ("", "cpu") else f"{facts.get('device_name', device)}; {processor}"
    )


def with_history(record: Gate, file: str | None, line: PastGate) -> Gate:
    """The gate with the verdicts of the same question that the file holds, and its own as the last
    one. Lines that hold none (cut off, or a later halftime's) are passed over, and counted in a
    note. Without a file, as it is. Raises BadFile where it cannot be read."""
    if file is None:
        return record
    if not Path(file).exists():
        return msgspec.structs.replace(record, history=(line,))
    lines = read_lines(file, PastGate)
    alike = [past for past in lines.records if past.question == line.question]
    notes = record.notes
    if lines.broken:
        numbers = ", ".join(str(number) for number in lines.broken[:5])
        more = ", …" if len(lines.broken) > 5 else ""
        notes = (
            *notes,
            f"{file}: not a verdict of this halftime, passed over: line {numbers}{more}",
        )
    return msgspec.structs.replace(record, history=(*alike[-MOST:], line), notes=notes)
