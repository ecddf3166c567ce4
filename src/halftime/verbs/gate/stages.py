"""Which part: cohorts of whole calls and of single stages, and each stage's shift."""

from __future__ import annotations

import math
from collections.abc import Sequence

from halftime.base.stats import median
from halftime.records.gate import GateCohort, GateProcess, StageShift
from halftime.verbs.gate.sequential import Cohort, shift_interval

STAGE_ALPHA = 0.05  # of a stage's interval: it explains a verdict and decides none


def log_cohort(cohort: GateCohort) -> Cohort:
    """Whole calls, as logarithms of their seconds."""
    return _split(cohort, [[math.log(s) for s in p.wall_seconds] for p in cohort.processes])


def _split(cohort: GateCohort, rows: Sequence[Sequence[float]]) -> Cohort:
    """By side; `rows` has one row a process."""
    base, candidate = (
        tuple(tuple(r) for r, p in zip(rows, cohort.processes, strict=True) if p.side == side)
        for side in ("base", "candidate")
    )
    return Cohort(base, candidate)


def stage_shifts(cohorts: Sequence[GateCohort]) -> tuple[StageShift, ...]:
    """Every stage of either side, in the order of the ledger."""
    processes = [process for cohort in cohorts for process in cohort.processes]
    names = dict.fromkeys(name for process in processes for name in process.stage_seconds)
    wall = median([s for process in processes for s in process.wall_seconds])
    return tuple(_shift(name, cohorts, wall) for name in names)


def stage_cohorts(stage: str, cohorts: Sequence[GateCohort], wall: float) -> tuple[Cohort, ...]:
    """One stage's seconds, as shares of a call of `wall` seconds, so that the test's tilts fit."""
    return tuple(
        _split(cohort, [[s / wall for s in _seconds(p, stage)] for p in cohort.processes])
        for cohort in cohorts
    )


def _seconds(process: GateProcess, stage: str) -> Sequence[float]:
    """Zeros where a process has no such stage."""
    return process.stage_seconds.get(stage, (0.0,) * len(process.wall_seconds))


def _shift(stage: str, cohorts: Sequence[GateCohort], wall: float) -> StageShift:
    parts = stage_cohorts(stage, cohorts, wall)
    interval = shift_interval(parts, STAGE_ALPHA)
    base = median([value for part in parts for calls in part.base for value in calls]) * wall
    return StageShift(
        stage=stage,
        base_seconds=base,
        candidate_seconds=base + interval.value * wall,
        difference_seconds=interval.value * wall,
        low_seconds=_finite(interval.low * wall),
        high_seconds=_finite(interval.high * wall),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def culprit(stages: Sequence[StageShift], *, faster: bool = False) -> StageShift | None:
    """The stage that moved most in the verdict's direction."""
    sign = -1 if faster else 1
    moved = [stage for stage in stages if sign * stage.difference_seconds > 0]
    return max(moved, key=lambda stage: sign * stage.difference_seconds, default=None)
