"""What a plan is expected to save: Amdahl's sum over a ledger, with the priors of its fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from halftime.records import Finding, Json, LedgerRow, Session
from halftime.records.finding import ceiling
from halftime.records.fixes import FIX_ROWS, LedgerPart, Prior
from halftime.records.recipe import Choice
from halftime.records.session import UNEXPLAINED


def effects(choice: Choice) -> dict[LedgerPart, Prior]:
    """What one fix is expected to do, by row of the ledger."""
    return FIX_ROWS[choice.name].expected(choice.settings)


def components_of(settings: Mapping[str, Json]) -> tuple[str, ...]:
    """The setting `components` as names."""
    value = settings.get("components")
    return tuple(str(part) for part in value) if isinstance(value, list) else ()


def setup_seconds(choice: Choice) -> float:
    """How long applying it for the first time is expected to take."""
    return max((prior.setup_seconds for prior in effects(choice).values()), default=0.5)


def predicted(session: Session, plan: tuple[Choice, ...], steps: int | None = None) -> float:
    """Speedup of the whole call that ledger and priors predict for a plan: Amdahl's sum over rows.

    Each row's seconds are divided by the speedups of the fixes that work on it; a row can at most
    vanish.
    """
    cuda = session.environment.device.startswith("cuda")
    speeds: dict[LedgerPart, float] = {}
    for choice in plan:
        for where, prior in effects(choice).items():
            speeds[where] = speeds.get(where, 1.0) * (prior.cuda if cuda else prior.cpu)
    fewer = _step_share(plan, steps or session.workload.steps)
    saved = _saved(session.ledger, speeds, fewer)
    return session.wall_seconds / max(session.wall_seconds - saved, 1e-9)


def fix_ceiling(session: Session, choice: Choice) -> float | None:
    """Amdahl's bound of a fix: the speedup of the whole call if all that it works on took no time;
    None where nothing would be left. No prediction of the fix is above it."""
    saved = _saved(session.ledger, dict.fromkeys(effects(choice), float("inf")))
    return ceiling(saved, session.wall_seconds)


def _saved(
    ledger: Sequence[LedgerRow], speeds: Mapping[LedgerPart, float], step_share: float = 1.0
) -> float:
    return sum(
        row.seconds - _row_left(row, speeds) * (step_share if row.stage == "denoise" else 1.0)
        for row in ledger
        if row.stage != UNEXPLAINED
    )


def with_predictions(session: Session) -> Session:
    """The session with the predicted gain of each finding's fix: what is broken first, then the
    most promising. A finding without a fix promises its ceiling, since its cure ends all of its
    cost; those that promise nothing for a steady call follow in their order."""
    findings = [_with_prediction(session, finding) for finding in session.findings]
    findings.sort(key=lambda finding: (not finding.broken, -_promise(finding)))
    return msgspec.structs.replace(session, findings=tuple(findings))


def _promise(finding: Finding) -> float:
    if finding.fix or finding.of_first_call:
        return finding.predicted or 0.0
    return finding.ceiling or 0.0


def _with_prediction(session: Session, finding: Finding) -> Finding:
    """A fix may work on more than what the finding costs: where it is expected to bring more than
    the finding's ceiling, the ceiling is the fix's."""
    if finding.fix not in FIX_ROWS or not FIX_ROWS[finding.fix].priors:
        return finding
    choice = Choice(name=finding.fix)
    gain, bound = predicted(session, (choice,)), finding.ceiling
    if bound is not None and gain > bound:
        bound = fix_ceiling(session, choice)
    return msgspec.structs.replace(finding, predicted=gain, ceiling=bound)


def _row_left(row: LedgerRow, speeds: Mapping[LedgerPart, float]) -> float:
    if not row.parts:
        own = [
            speed
            for (stage, part), speed in speeds.items()
            if stage == row.stage and part in ("", "denoiser")
        ]
        return row.seconds / (own[0] if own else 1.0)
    stage_speed = speeds.get((row.stage, ""), 1.0)
    return sum(
        part.seconds / (stage_speed * speeds.get((row.stage, part.stage), 1.0))
        for part in row.parts
    )


def _step_share(plan: tuple[Choice, ...], steps: int) -> float:
    """The share of the denoiser's evaluations that solver-steps leaves."""
    for choice in plan:
        fewer = choice.settings.get("steps")
        if choice.name == "solver-steps" and isinstance(fewer, int | float):
            evaluations = 2 if str(choice.settings.get("scheduler", "")).startswith("Heun") else 1
            return evaluations * fewer / steps
    return 1.0
