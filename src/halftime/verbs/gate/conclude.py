"""From what was measured to one verdict, its reasons, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from halftime.base import units
from halftime.base.progress import roughly
from halftime.base.stats import Interval, median
from halftime.records import Workload
from halftime.records.gate import (
    Gate,
    GateCohort,
    GateCounter,
    GateDifference,
    GateSide,
    GateWord,
    StageShift,
)
from halftime.records.verdict import Verdict
from halftime.verbs.gate.compare import likeliest_first
from halftime.verbs.gate.sequential import Cohort, cohorts_needed, decide, shift_interval
from halftime.verbs.gate.stages import culprit, log_cohort, stage_shifts


@dataclass(frozen=True)
class GateEvidence:
    """Everything that both sides said."""

    cohorts: tuple[GateCohort, ...]
    counters: tuple[GateCounter, ...]
    pictures: Verdict | None
    pictures_missing: str  # why they were not compared, where they should have been
    differences: tuple[GateDifference, ...]
    base: GateSide
    candidate: GateSide
    notes: tuple[str, ...]
    spent: float


def conclude(
    measurements: GateEvidence,
    margin: float,
    alpha: float,
    budget: float,
    workload: Workload,
    *,
    exact: bool = False,
) -> Gate:
    """The verdict: slower before worse before undecided before pass and faster."""
    cohorts = [log_cohort(cohort) for cohort in measurements.cohorts]
    state = decide(cohorts, margin, alpha)
    interval = shift_interval(cohorts, alpha) if cohorts else None
    stages = stage_shifts(measurements.cohorts) if cohorts else ()
    speed = "not measured" if exact else _SPEED[state.word]
    objections = [*_counter_objections(measurements.counters), *_picture_objection(measurements)]
    word = verdict_word(speed, bool(objections), _unsure(measurements))
    stage = culprit(stages, faster=speed == "faster") if speed in ("slower", "faster") else None
    return Gate(
        verdict=word,
        speed=speed,
        reasons=(
            *_speed_reasons(speed, stage, stages, margin, alpha),
            *_less_than_the_margin(speed, interval),
            *objections,
        ),
        would_decide=_would_decide(word, speed, cohorts, margin, alpha, measurements, budget),
        base=measurements.base,
        candidate=measurements.candidate,
        ratio=math.exp(interval.value) if interval else None,
        low=_ratio(interval.low) if interval else None,
        high=_ratio(interval.high) if interval else None,
        wall_seconds=_wall(measurements.cohorts),
        margin=margin,
        alpha=alpha,
        budget_seconds=budget,
        spent_seconds=measurements.spent,
        log_evidence={"slower": state.slower, "fine": state.fine, "faster": state.faster},
        cohorts=measurements.cohorts,
        stages=stages,
        counters=measurements.counters,
        differences=likeliest_first(measurements.differences, stage.stage if stage else None),
        pictures=measurements.pictures,
        workload=workload,
        notes=(
            *measurements.notes,
            *([measurements.pictures_missing] if measurements.pictures_missing else []),
        ),
    )


Speed = Literal["pass", "faster", "slower", "undecided", "not measured"]
_SPEED: dict[str, Speed] = {
    "slower": "slower",
    "pass": "pass",
    "faster": "faster",
    "": "undecided",
}


def verdict_word(speed: str, objections: bool, unsure: bool) -> GateWord:
    """One word from the speed's, from whether a counter or a picture objects, and from whether the
    pictures are undecided."""
    if speed == "slower":
        return "slower"
    if objections:
        return "worse"
    if speed == "undecided" or unsure:
        return "undecided"
    return "faster" if speed == "faster" else "pass"


def _unsure(measurements: GateEvidence) -> bool:
    pictures = measurements.pictures
    return bool(measurements.pictures_missing) or (
        pictures is not None and pictures.verdict == "inconclusive"
    )


def _ratio(shift: float) -> float | None:
    return math.exp(shift) if math.isfinite(shift) else None


def _wall(cohorts: Sequence[GateCohort]) -> float | None:
    processes = [process for cohort in cohorts for process in cohort.processes]
    walls = [s for process in processes if process.side == "base" for s in process.wall_seconds]
    return median(walls) if walls else None


def _counter_objections(counters: Sequence[GateCounter]) -> Iterator[str]:
    for counter in counters:
        if counter.worse and counter.base is not None and counter.candidate is not None:
            show = units.FORMATS[counter.unit]
            more = f": {counter.details[0]}" if counter.details else ""
            yield (
                f"{counter.name}: {show(counter.base)} before, {show(counter.candidate)} now{more}"
            )


def _picture_objection(measurements: GateEvidence) -> Iterator[str]:
    pictures = measurements.pictures
    if pictures is not None and pictures.verdict == "different":
        yield f"other pictures: {pictures.reasons[0] if pictures.reasons else 'none compares'}"


def _speed_reasons(
    speed: str,
    stage: StageShift | None,
    stages: Sequence[StageShift],
    margin: float,
    alpha: float,
) -> Iterator[str]:
    sure = f"wrong in at most {100 * alpha:g} % of runs"
    moved = f": {stage_words(stage)}{_others(stages, stage)}" if stage else ""
    if speed == "not measured":
        yield "time was not measured: counters and pictures alone"
    elif speed == "slower":
        yield f"slower, {sure}{moved}"
    elif speed == "faster":
        yield f"faster, {sure}{moved}"
    elif speed == "pass":
        yield f"not slower by {100 * margin:g} %, {sure}"


def _less_than_the_margin(speed: str, interval: Interval | None) -> Iterator[str]:
    if speed == "pass" and interval and interval.low > 0:
        yield (
            f"it is slower by {100 * math.expm1(interval.value):.2g} %, which is less than what "
            "--slower lets count"
        )


def stage_words(stage: StageShift) -> str:
    """'vae_decode +41 ms [38, 45]'."""
    scale, unit = (1.0, "s") if abs(stage.difference_seconds) >= 1 else (1000.0, "ms")
    bounds = "its interval is still open"
    if stage.low_seconds is not None and stage.high_seconds is not None:
        bounds = f"{scale * stage.low_seconds:.3g}, {scale * stage.high_seconds:.3g}"
    return f"{stage.stage} {scale * stage.difference_seconds:+.3g} {unit} [{bounds}]"


def _others(stages: Sequence[StageShift], culprit_stage: StageShift) -> str:
    moved = [s for s in stages if s.moved and s is not culprit_stage]
    if not moved:
        return ", the rest unchanged"
    return ", and " + ", ".join(stage_words(stage) for stage in moved[:3])


def _would_decide(
    word: GateWord,
    speed: str,
    cohorts: Sequence[Cohort],
    margin: float,
    alpha: float,
    measurements: GateEvidence,
    budget: float,
) -> str:
    if word != "undecided":
        return ""
    if speed != "undecided":
        return _pictures_needed(measurements)
    if not cohorts:
        return f"more time than was left: --budget {_minutes(2 * budget)}m"
    more = cohorts_needed(cohorts, margin, alpha)
    if more is None:
        return (
            "no sensible budget at this margin: the difference lies between 0 and --slower, where "
            "neither can be shown, or the noise is too large; a margin twice as large, or a "
            "quieter machine"
        )
    needed = measurements.spent / len(cohorts) * more
    return f"about {roughly(needed)} more: --budget {_minutes(budget + needed)}m"


def _pictures_needed(measurements: GateEvidence) -> str:
    if measurements.pictures_missing:
        return "more time for the pictures (--budget), or none (--pictures 0)"
    needed = measurements.pictures.prompts_needed if measurements.pictures else None
    return f"about {needed:,} pictures: --pictures {needed}" if needed else "more --pictures"


def _minutes(budget: float) -> int:
    return math.ceil(budget / 60)
