"""A pull request's gate: which waits in the loop are new?"""

from __future__ import annotations

from halftime.base.errors import Unlike
from halftime.records.audit import Audit, Site


def new_sites(base: Audit, now: Audit) -> tuple[Site, ...]:
    """Sites of the loop that the baseline does not have, or has less often.

    Lines move, so a site is known by its file, function, kind and code, not by its line's number.
    Raises Unlike where the numbers of steps differ, since a wait of every step would then look like
    a new one, or hide one.
    """
    if base.workload.steps != now.workload.steps:
        raise Unlike(
            f"the baseline was audited with {base.workload.steps} steps, this one with "
            f"{now.workload.steps}: use "
            f"--steps {base.workload.steps}, or make the baseline anew."
        )
    allowed: dict[tuple[str, str, str, str], int] = {}
    for site in base.sites:
        if site.in_loop:
            allowed[_identity(site)] = allowed.get(_identity(site), 0) + site.count
    return tuple(
        site for site in now.sites if site.in_loop and site.count > allowed.get(_identity(site), 0)
    )


def _identity(site: Site) -> tuple[str, str, str, str]:
    return site.file, site.function, site.kind, site.code
