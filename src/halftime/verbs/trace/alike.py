"""Whether two traces are of the same workload, and what else differs between them."""

from __future__ import annotations

from halftime.base.errors import BadInput
from halftime.records import Session, StageOnDevice

# Operations of a step that differ by more than this factor are another network's.
OPERATIONS = 1.5


def refuse_unlike(baseline: Session, candidate: Session) -> None:
    """Raises BadInput where the two are not of one workload, so that no ratio means anything."""
    reasons = [
        f"{what} {before} and {now}"
        for what, before, now in (
            ("pipelines", baseline.pipeline, candidate.pipeline),
            ("numbers of steps", _steps(baseline), _steps(candidate)),
        )
        if before and now and before != now
    ]
    if reasons:
        raise BadInput(
            f"the two traces are not of the same workload: their {' and their '.join(reasons)} "
            "differ. Record both with the same pipeline, size and steps, or read each alone."
        )


def differences(baseline: Session, candidate: Session) -> tuple[str, ...]:
    """What a reader must know who compares the two, in sentences."""
    before, now = baseline.environment.device_name, candidate.environment.device_name
    notes = []
    if before != now:
        notes.append(f"the baseline ran on {before} and the other on {now}: the ratio is of both.")
    first, second = _step(baseline), _step(candidate)
    if first and second and _apart(first, second) > OPERATIONS:
        notes.append(
            f"a step launches {first:,.0f} operations in the baseline and {second:,.0f} in the "
            "other: compiled, or another network."
        )
    return tuple(notes)


def _steps(session: Session) -> int | None:
    row = session.row("denoise")
    return row.per_step.count if row and row.per_step else None


def _step(session: Session) -> float | None:
    stages: tuple[StageOnDevice, ...] = session.on_device
    return next((stage.kernels_per_step for stage in stages if stage.kernels_per_step), None)


def _apart(first: float, second: float) -> float:
    return max(first, second) / min(first, second)
