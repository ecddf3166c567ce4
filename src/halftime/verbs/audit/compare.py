"""A pull request's gate: which waits in the loop are new?"""

from __future__ import annotations

from halftime.base.errors import Unlike
from halftime.records.audit import Audit, Site


def new_sites(baseline: Audit, audit: Audit) -> tuple[Site, ...]:
    """Sites of the loop that the baseline does not have, or has less often.

    Lines move, so a site is known by its file, function, kind and code, not by its line's number.
    Raises Unlike where the numbers of steps differ, since a wait of every step would then look like
    a new one, or hide one.
    """
    if baseline.workload.steps != audit.workload.steps:
        raise Unlike(
            f"the baseline was audited with {baseline.workload.steps} steps, this one with "
            f"{audit.workload.steps}: use --steps {baseline.workload.steps}, or make a new "
            "baseline."
        )
    allowed: dict[tuple[str, str, str, str], int] = {}
    for site in baseline.sites:
        if site.in_loop:
            allowed[_identity(site)] = allowed.get(_identity(site), 0) + site.count
    return tuple(
        site
        for site in audit.sites
        if site.in_loop and site.count > allowed.get(_identity(site), 0)
    )


def _identity(site: Site) -> tuple[str, str, str, str]:
    return site.file, site.function, site.kind, site.code
