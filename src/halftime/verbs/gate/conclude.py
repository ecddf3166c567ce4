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
    Acceptance,
    Gate,
    GateCohort,
    GateCounter,
    GateDifference,
    GateSide,
    GateWord,
    StageShift,
)
from halftime.records.verdict import Verdict
from halftime.verbs.gate import accept
from halftime.verbs.gate.compare import likeliest_first
from halftime.verbs.gate.sequential import Cohort, cohorts_needed, decide, shift_interval
from halftime.verbs.gate.stages import culprit, log_cohort, stage_shifts

FEWEST_TO_FORETELL = 3  # cohorts; fewer do not say that no sensible number would decide


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
    acceptances: Sequence[Acceptance] = (),
) -> Gate:
    """The verdict: slower before worse before undecided before accepted, pass and faster."""
    cohorts = [log_cohort(cohort) for cohort in measurements.cohorts]
    state = decide(cohorts, margin, alpha)
    interval = shift_interval(cohorts, alpha) if cohorts else None
    stages = stage_shifts(measurements.cohorts) if cohorts else ()
    speed = "not measured" if exact else _SPEED[state.word]
    ruling = _ruling(measurements, speed, cohorts, stages, margin, alpha, acceptances)
    stage = culprit(stages, faster=speed == "faster") if speed in ("slower", "faster") else None
    of_speed = tuple(_speed_reasons(speed, stage, stages, margin, alpha, ruling))
    objections = tuple(_objections(measurements, ruling, acceptances))
    judged = "pass" if ruling.speed else speed
    accepted = bool(ruling.needed)
    word = verdict_word(judged, bool(objections), _unsure(measurements), accepted)
    return Gate(
        verdict=word,
        speed=speed,
        reasons=(
            *of_speed,
            *_less_than_the_margin(speed, interval),
            *objections,
            *_accepted_reasons(ruling),
        ),
        objections=(*(of_speed if word == "slower" else ()), *objections),
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
        counters=ruling.counters,
        accepted=ruling.needed,
        differences=likeliest_first(measurements.differences, stage.stage if stage else None),
        pictures=measurements.pictures,
        workload=workload,
        notes=(
            *measurements.notes,
            *([measurements.pictures_missing] if measurements.pictures_missing else []),
            *_not_needed(acceptances, ruling.needed),
        ),
    )


Speed = Literal["pass", "faster", "slower", "undecided", "not measured"]
_SPEED: dict[str, Speed] = {
    "slower": "slower",
    "pass": "pass",
    "faster": "faster",
    "": "undecided",
}


def verdict_word(speed: str, objections: bool, unsure: bool, accepted: bool = False) -> GateWord:
    """One word from the speed's, from whether a counter or a picture objects, from whether the
    pictures are undecided, and from whether anything is worse that was accepted."""
    if speed == "slower":
        return "slower"
    if objections:
        return "worse"
    if speed == "undecided" or unsure:
        return "undecided"
    if accepted:
        return "accepted"
    return "faster" if speed == "faster" else "pass"


def _unsure(measurements: GateEvidence) -> bool:
    lost = any(counter.lost for counter in measurements.counters)
    return lost or bool(measurements.pictures_missing) or _pictures_open(measurements)


def _pictures_open(measurements: GateEvidence) -> bool:
    pictures = measurements.pictures
    return pictures is not None and pictures.verdict == "inconclusive"


def _ratio(shift: float) -> float | None:
    return math.exp(shift) if math.isfinite(shift) else None


def _wall(cohorts: Sequence[GateCohort]) -> float | None:
    processes = [process for cohort in cohorts for process in cohort.processes]
    walls = [s for process in processes if process.side == "base" for s in process.wall_seconds]
    return median(walls) if walls else None


@dataclass(frozen=True)
class Ruling:
    """What the repository's acceptances cover."""

    speed: Acceptance | None
    limits: tuple[Acceptance, ...]  # about time, whether they cover it or not
    counters: tuple[GateCounter, ...]  # with their reasons
    pictures: Acceptance | None
    needed: tuple[Acceptance, ...]


def _ruling(
    measurements: GateEvidence,
    speed: str,
    cohorts: Sequence[Cohort],
    stages: Sequence[StageShift],
    margin: float,
    alpha: float,
    acceptances: Sequence[Acceptance],
) -> Ruling:
    limits = accept.speed_limits(acceptances, margin) if speed == "slower" else []
    of_speed = accept.covering(limits, cohorts, stages, alpha, margin) if limits else None
    counters = accept.with_reasons(measurements.counters, acceptances)
    of_counters = [accept.of(c.name, acceptances) for c in counters if c.accepted]
    of_pictures = _of_pictures(measurements, acceptances)
    needed = tuple(line for line in (of_speed, *of_counters, of_pictures) if line)
    return Ruling(of_speed, tuple(limits), counters, of_pictures, needed)


def _of_pictures(
    measurements: GateEvidence, acceptances: Sequence[Acceptance]
) -> Acceptance | None:
    """What accepts other pictures; nothing accepts those that are black, not a number or noise
    where the base's are not."""
    pictures = measurements.pictures
    if pictures is None or pictures.verdict != "different":
        return None
    before = {(trip.name, trip.reason) for trip in pictures.trips if trip.side == "baseline"}
    if any((trip.name, trip.reason) not in before for trip in pictures.trips):
        return None
    return accept.of(accept.PICTURES, acceptances)


def _objections(
    measurements: GateEvidence, ruling: Ruling, acceptances: Sequence[Acceptance]
) -> Iterator[str]:
    for counter in ruling.counters:
        if counter.worse and not counter.accepted:
            line = accept.of(counter.name, acceptances)
            more = f", and accepted is {accept.amount_words(line)}" if line else ""
            where = f": {counter.details[0]}" if counter.details else ""
            yield f"{_before_and_now(counter)}{more}{where}"
    if not ruling.pictures:
        yield from _picture_objection(measurements)


def _before_and_now(counter: GateCounter) -> str:
    show = units.FORMATS[counter.unit]
    return f"{counter.name}: {show(counter.base)} before, {show(counter.candidate)} now"


def _accepted_reasons(ruling: Ruling) -> Iterator[str]:
    for counter in ruling.counters:
        if counter.accepted:
            yield f"{_before_and_now(counter)}, accepted: {counter.accepted}"
    if ruling.pictures:
        yield _accepted("other pictures", ruling.pictures)


def _accepted(subject: str, line: Acceptance) -> str:
    return f"{subject}, accepted: {line.reason} ({accept.amount_words(line)}, {line.date[:10]})"


def _not_needed(acceptances: Sequence[Acceptance], needed: Sequence[Acceptance]) -> Iterator[str]:
    for line in acceptances:
        if line not in needed:
            yield f"accepted, and not needed here: {line.what}, {accept.amount_words(line)}"


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
    ruling: Ruling,
) -> Iterator[str]:
    sure = f"wrong in at most {100 * alpha:g} % of runs"
    moved = f": {stage_words(stage)}{_others(stages, stage)}" if stage else ""
    if speed == "not measured":
        yield "time was not measured"
    elif ruling.speed:
        yield f"{_accepted('slower', ruling.speed)}{moved}"
    elif speed == "slower":
        yield f"slower, {sure}{moved}"
        yield from _beyond(ruling.limits)
    elif speed == "faster":
        yield f"faster, {sure}{moved}"
    elif speed == "pass":
        yield f"not slower by {100 * margin:g} %, {sure}"


def _beyond(limits: Sequence[Acceptance]) -> Iterator[str]:
    """Why what is accepted did not help."""
    for line in limits:
        alone = "" if line.what == accept.SPEED else f" by {line.what} alone"
        yield (
            f"accepted is {accept.amount_words(line)}{alone} ({line.reason}), and this is not "
            "shown to stay within that"
        )


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
        lost = [counter for counter in measurements.counters if counter.lost]
        if lost:
            return (
                f"{lost[0].name}, which could be counted before and not now ({lost[0].skipped}): "
                f"mend that, or --allow '{lost[0].name}'"
            )
        return _pictures_needed(measurements)
    if not cohorts:
        return f"more time than was left: --budget {_minutes(2 * budget)}m"
    more = cohorts_needed(cohorts, margin, alpha)
    if more is None and len(cohorts) < FEWEST_TO_FORETELL:
        more = FEWEST_TO_FORETELL
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
