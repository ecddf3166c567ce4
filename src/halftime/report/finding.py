"""One Finding as a Report."""

from __future__ import annotations

from halftime.records import Finding
from halftime.report.model import Block, Column, Report, Section, Table, Text, rows_of
from halftime.report.session import entry_of


def report_of(finding: Finding) -> Report:
    """What it is, what it costs, where, and the fix; its evidence as a table."""
    entry = entry_of(finding)
    evidence = Table(
        (Column("evidence"), Column("")),
        rows_of(*((k, str(v)) for k, v in finding.evidence.items())),
    )
    where = Text("; ".join(finding.where))
    blocks: list[Block] = [
        *([where] if finding.where else []),
        *([evidence] if finding.evidence else []),
    ]
    sections = (Section("Where, and what it rests on", tuple(blocks)),) if blocks else ()
    return Report(
        title=f"{finding.id} ({finding.stage})",
        summary=f"{entry.facts}: {finding.message}",
        sections=sections,
    )
