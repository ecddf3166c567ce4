"""Advice that was tried: a fix is named where an audit with it waits less, and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from halftime.records import Finding
from halftime.records.audit import Audit, Site
from halftime.records.fixes import RecordedFixName

# Fixes whose effect one call shows. A cache of prompts helps from the second call on.
SHOWN_BY_ONE_CALL = ("schedule-table", "set-begin-index")

# The audit of the same call with a fix applied, or why it cannot be.
AuditWith = Callable[[RecordedFixName], Audit | str]


def confirmed(audit: Audit, audit_with: AuditWith) -> Audit:
    """`audit` without the fixes that take no wait away from the line that names them.

    `audit_with` is called once for each fix that a site names and that one call can show.
    """
    named = {site.fix for site in audit.sites}
    sites, findings = audit.sites, list(audit.findings)
    for fix in SHOWN_BY_ONE_CALL:
        if fix not in named:
            continue
        second = audit_with(fix)
        helpless = set(_helpless(audit, second, fix))
        sites = tuple(
            msgspec.structs.replace(site, fix=None) if _line(site) in helpless else site
            for site in sites
        )
        if helpless:
            findings.append(_finding(fix, second, [s for s in audit.sites if _line(s) in helpless]))
    return msgspec.structs.replace(audit, sites=sites, findings=tuple(findings))


def _helpless(audit: Audit, second: Audit | str, fix: str) -> Iterator[tuple[object, ...]]:
    """The lines that name `fix` and wait as often with it."""
    waits = Counter[tuple[object, ...]]()
    for site in second.sites if isinstance(second, Audit) else ():
        waits[_line(site)] += site.count
    for site in audit.sites:
        if site.fix == fix and (isinstance(second, str) or waits[_line(site)] >= site.count):
            yield _line(site)


def _line(site: Site) -> tuple[object, ...]:
    return site.file, site.line, site.function, site.kind, site.in_loop


def _finding(fix: str, second: Audit | str, sites: list[Site]) -> Finding:
    waits = sum(site.count for site in sites)
    why = f"it does not apply: {second}" if isinstance(second, str) else "as many are left with it"
    return Finding(
        id="fix-does-not-help",
        stage="denoise",
        message=f"{fix} takes none of these {waits} waits away: {why}",
        where=tuple(f"{site.file}:{site.line}" for site in sites),
        evidence={"waits": waits},
    )
