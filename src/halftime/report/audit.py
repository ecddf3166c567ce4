"""An Audit as a Report, and as annotations that GitHub shows beside the lines."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records.audit import Audit, RulesCheck, Site
from halftime.report.github import annotation
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
    Column("count", "count"),
    Column("kind"),
    Column("where"),
    Column("in", wide=True),
    Column("fix"),
    Column("code", wide=True),
)

_LONGEST_PATH = 36


def report_of(audit: Audit) -> Report:
    """The verdict first, then the sites inside and outside the loop."""
    return Report(
        title=(
            f"{audit.pipeline}, {audit.scheduler}, on the shadow device: "
            f"{units.count(audit.in_loop_total)} waits in the denoising loop"
        ),
        summary=_summary(audit),
        sections=tuple(_sections(audit)),
    )


def _summary(audit: Audit) -> str:
    counts = (
        f"{audit.in_loop_total} times the host waits until the device has done all that was "
        f"queued, {audit.in_loop_d2h} of them for a value of it and {audit.in_loop_h2d} for a copy "
        "to it from pageable memory"
    )
    if audit.capturable:
        return (
            f"The loop of {audit.steps_seen} steps never waits: it can be captured in a CUDA graph."
        )
    return (
        f"In {audit.steps_seen} steps: {counts}. The loop cannot be captured in a CUDA graph "
        "as it is."
    )


def _sections(audit: Audit) -> Iterator[Section]:
    inside = [site for site in audit.sites if site.in_loop]
    outside = [site for site in audit.sites if not site.in_loop]
    if inside:
        yield Section("In the denoising loop", (_table(inside),))
    if outside:
        yield Section("Before and after it", (_table(outside),))
    advice = [site for site in audit.sites if site.advice]
    if advice:
        entries = tuple(
            Entry(f"{_near(site.file)}:{site.line}", site.code, site.advice) for site in advice
        )
        yield Section("What to write instead", (Entries(entries),))
    if audit.because:
        yield Section(
            "What stands against capture",
            (Bullets(tuple(Text(why, "warning") for why in audit.because)),),
            console=False,
        )
    if audit.findings:
        entries = tuple(
            Entry(f.id, ", ".join(f.where) or f.stage, f.message) for f in audit.findings
        )
        yield Section("What every step repeats, and what differs", (Entries(entries),))
    yield Section("Not seen", (Bullets(tuple(Text(part) for part in audit.not_seen)),))


def _table(sites: list[Site]) -> Table:
    rows: list[list[Cell]] = [
        [
            site.count,
            f"{site.kind}{', every step' if site.per_step else ''}",
            f"{_near(site.file)}:{site.line}",
            f"{site.stage}, {site.function}",
            site.fix or units.NOTHING,
            site.code,
        ]
        for site in sites
    ]
    return Table(_COLUMNS, rows_of(*rows))


def _near(file: str) -> str:
    """A path that does not break a table: a long one by its file alone."""
    return file if len(file) <= _LONGEST_PATH else f"…/{file.rpartition('/')[2]}"


def github_annotations(audit: Audit) -> str:
    """GitHub's workflow commands, one a line: a warning for each site in the loop."""
    lines = [
        annotation(
            "warning",
            "wait in the denoising loop",
            f"{site.kind}, {site.count} times in {audit.steps_seen} steps: {site.code}",
            site.file,
            site.line,
        )
        for site in audit.sites
        if site.in_loop
    ]
    return "\n".join([*lines, annotation("notice", "halftime audit", _summary(audit))])


def rules_report_of(check: RulesCheck) -> Report:
    """Rule and device, case by case; what differs first."""
    wrong = check.wrong
    cases = sorted(check.cases, key=lambda case: (case.agrees, not case.torchs))
    rows = rows_of(
        *(
            (
                "yes" if case.agrees else "NO",
                case.name,
                _waits(case.rule),
                _waits(case.device),
                "torch's own test" if case.torchs else "",
            )
            for case in cases
        )
    )
    columns = (
        Column("agree"),
        Column("case"),
        Column("rule"),
        Column("device"),
        Column("from", wide=True),
    )
    return Report(
        title=(
            f"The audit's rules on {check.device}: {len(cases) - len(wrong)} of {len(cases)} "
            "cases agree"
        ),
        summary=f"torch {check.torch}, under torch.cuda.set_sync_debug_mode. "
        + (
            "No rule is wrong here."
            if not wrong
            else f"Wrong: {', '.join(case.name for case in wrong)}."
        ),
        sections=(
            Section("Cases", (Table(columns, rows, emphasis=frozenset(range(len(wrong)))),)),
        ),
    )


def _waits(waits: bool) -> str:
    return "waits" if waits else "does not"
