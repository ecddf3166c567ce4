"""From what was measured to one verdict, its reasons, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halftime.base import units
from halftime.base.progress import roughly
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
from halftime.verbs.gate.sequential import Cohort, cohorts_needed, decide, shift_interval
from halftime.verbs.gate.stages import culprit, log_cohort, stage_shifts


@dataclass(frozen=True)
class GateEvidence:
    """Everything that both sides said."""

    cohorts: tuple[GateCohort, ...]
    counters: tuple[GateCounter, ...]
    pictures: Verdict | None
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
    speed = "pass" if exact else state.word or "undecided"
    objections = [*_counter_objections(measurements.counters), *_picture_objection(measurements)]
    word = verdict_word(speed, bool(objections), _unsure(measurements.pictures))
    reasons = [*_speed_reasons(speed, stages, margin, alpha, exact), *objections]
    return Gate(
        verdict=word,
        reasons=tuple(reasons),
        would_decide=_would_decide(word, speed, cohorts, margin, alpha, measurements, budget),
        base=measurements.base,
        candidate=measurements.candidate,
        ratio=math.exp(interval.value) if interval else None,
        low=_ratio(interval.low) if interval else None,
        high=_ratio(interval.high) if interval else None,
        wall_seconds=_wall(cohorts),
        margin=margin,
        alpha=alpha,
        budget_seconds=budget,
        spent_seconds=measurements.spent,
        log_evidence={"slower": state.slower, "fine": state.fine, "faster": state.faster},
        cohorts=measurements.cohorts,
        stages=stages,
        counters=measurements.counters,
        differences=measurements.differences,
        pictures=measurements.pictures,
        workload=workload,
        notes=measurements.notes,
    )


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


def _unsure(pictures: Verdict | None) -> bool:
    return pictures is not None and pictures.verdict == "inconclusive"


def _ratio(shift: float) -> float | None:
    return math.exp(shift) if math.isfinite(shift) else None


def _wall(cohorts: Sequence[Cohort]) -> float | None:
    values = sorted(value for cohort in cohorts for value in cohort.base)
    return math.exp(values[len(values) // 2]) if values else None


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
    speed: str, stages: Sequence[StageShift], margin: float, alpha: float, exact: bool
) -> Iterator[str]:
    if exact:
        yield "time was not measured (--exact): counters and pictures alone"
        return
    sure = f"wrong in at most {100 * alpha:g} % of runs"
    stage = culprit(stages, faster=speed == "faster")
    if speed == "slower":
        yield f"slower, {sure}" + (f": {stage_words(stage)}{_rest(stages, stage)}" if stage else "")
    elif speed in ("pass", "faster"):
        yield f"not slower by {100 * margin:g} %, {sure}"
        if speed == "faster":
            yield f"faster, {sure}" + (f": {stage_words(stage)}" if stage else "")


def stage_words(stage: StageShift) -> str:
    """'vae_decode +41 ms [38, 45]'."""
    bounds = "its interval is still open"
    if stage.low_seconds is not None and stage.high_seconds is not None:
        bounds = f"{1000 * stage.low_seconds:.3g}, {1000 * stage.high_seconds:.3g}"
    sign = "+" if stage.difference_seconds > 0 else "-"
    return f"{stage.stage} {sign}{units.seconds(abs(stage.difference_seconds))} [{bounds}]"


def _rest(stages: Sequence[StageShift], culprit_stage: StageShift) -> str:
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
        needed = measurements.pictures.prompts_needed if measurements.pictures else None
        return f"{f'about {needed:,}' if needed else 'more'} pictures: --pictures"
    more = cohorts_needed(cohorts, margin, alpha)
    if more is None:
        return (
            "no sensible budget at this margin: the difference lies between 0 and --slower, where "
            "neither can be shown; a margin twice as large, or a quieter machine"
        )
    seconds = measurements.spent / max(len(cohorts), 1) * more
    return f"about {roughly(seconds)} more: --budget {math.ceil((budget + seconds) / 60)}m"
