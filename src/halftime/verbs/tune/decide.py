"""The decisions of `tune`, as functions of numbers: keep or drop, measure on, stop, and which fix
is to blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.stats import Interval, paired_ratio
from halftime.records.recipe import Choice
from halftime.records.tune import SweepPoint, Trial

T = TypeVar("T")
Choices = tuple[Choice, ...]
# A new plan draws these before it is timed: its first calls, and a look for broken pictures.
WARM_PROMPTS = 2
_UNTIMED_CALLS = WARM_PROMPTS + 1  # of a new plan
FIRST_ROUNDS, MOST_ROUNDS = 7, 15  # of a trial, in turns
NO_TIME = "no time was left for its rounds after its first calls"
_NEAR = 0.01  # nearer than this to 1.0 more rounds would not pay for themselves
_NO_GAIN = Interval(1.0, 1.0, 1.0)


def plan_key(plan: Choices) -> bytes:
    """Equal for equal plans, whatever the order of their fixes."""
    return msgspec.json.encode(sorted(plan, key=lambda choice: choice.name), order="deterministic")


@dataclass(frozen=True)
class Goal:
    """Seconds of one call, or a speedup, or (both None) as fast as the budget allows."""

    seconds: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("target", self.seconds), ("speedup", self.speedup)):
            if value is not None and not value > 0:
                raise BadInput(f"{name} is {value}; it must be above 0.")
        if self.seconds is not None and self.speedup is not None:
            raise BadInput("target and speedup exclude each other; give one.")

    def __str__(self) -> str:
        if self.seconds is not None:
            return units.seconds(self.seconds)
        return "best" if self.speedup is None else units.ratio(self.speedup)

    def reached(self, seconds: float, speedup: float) -> bool:
        """Whether a call that was measured at `seconds` and `speedup` is enough."""
        if self.seconds is not None:
            return seconds <= self.seconds
        return self.speedup is not None and speedup >= self.speedup


@dataclass
class Budget:
    """Seconds to spend; `reserve` is set aside for the last measurement and the verification."""

    total: float
    clock: Callable[[], float]
    spent_before: float = 0.0  # by an interrupted run that this one continues
    reserve: float = 0.0
    begun: float | None = None  # on the clock; now, unless the command began earlier

    def __post_init__(self) -> None:
        if not self.total > 0:
            raise BadInput(
                f"budget is {units.seconds(self.total)}; it must be above 0, for example 10m."
            )
        self.start = self.clock() if self.begun is None else self.begun

    def spent(self) -> float:
        """Since the beginning, interrupted runs included."""
        return self.spent_before + self.clock() - self.start

    def remaining(self) -> float:
        """For everything: what is not spent."""
        return self.total - self.spent()

    def left(self) -> float:
        """For trials: what is neither spent nor set aside."""
        return self.remaining() - self.reserve

    def allows(self, seconds: float) -> bool:
        """Whether something that takes this long still fits."""
        return seconds <= self.left()


def gain(trial: Trial) -> Interval:
    """Speedup of the candidate over the best plan so far, paired; 1.0 where it failed."""
    return paired_ratio(trial.incumbent, trial.candidate) if trial.candidate else _NO_GAIN


def stacked(trial: Trial) -> Interval:
    """Speedup of the candidate over the baseline, paired."""
    return paired_ratio(trial.baseline, trial.candidate)


def pays(trial: Trial) -> bool:
    """Faster than the best plan so far, beyond noise, and not slower than the baseline."""
    return not trial.failure and gain(trial).low > 1.0 and stacked(trial).value >= 1.0


def undecided(trial: Trial) -> bool:
    """Whether more rounds may settle it: the interval includes 1, the estimate is not near it."""
    ratio = gain(trial)
    return not trial.failure and ratio.low <= 1.0 <= ratio.high and abs(ratio.value - 1.0) > _NEAR


def trial_seconds(baseline: float, incumbent: float, setup: float) -> float:
    """What a trial is expected to take, from the seconds of a call: three plans in turns, and the
    candidate's first calls. The candidate is taken to be as fast as the incumbent."""
    incumbent_calls = 2 * FIRST_ROUNDS + _UNTIMED_CALLS
    return setup + FIRST_ROUNDS * baseline + incumbent_calls * incumbent


def suspects(
    fixes: Sequence[T],
    passes: Callable[[Sequence[T]], bool],
    allows: Callable[[Sequence[T]], bool] = lambda prefix: True,
) -> Sequence[T]:
    """The fix that turns a plan bad, by bisection over its prefixes: about log2(n) questions.

    The empty plan is good and the whole one bad; the answer is the last fix of the shortest bad
    prefix, where badness does not go away by adding fixes. Where a question is not allowed any
    more, every fix beyond the longest prefix that passed is suspect.
    """
    good, bad = 0, len(fixes)
    while bad - good > 1:
        if not allows(fixes[: (good + bad) // 2]):
            return fixes[good:]
        middle = (good + bad) // 2
        if passes(fixes[:middle]):
            good = middle
        else:
            bad = middle
    return fixes[bad - 1 : bad]


def pareto(points: Sequence[SweepPoint]) -> list[bool]:
    """Which points have no rival that is as fast and as near, and better in one of the two."""

    def dominated(point: SweepPoint) -> bool:
        return any(
            rival.seconds <= point.seconds
            and rival.flip <= point.flip
            and (rival.seconds, rival.flip) != (point.seconds, point.flip)
            for rival in points
        )

    return [not dominated(point) for point in points]


def cheapest(points: Sequence[SweepPoint]) -> SweepPoint | None:
    """The fastest point inside the quality budget."""
    return min(
        (point for point in points if point.within_budget),
        key=lambda point: point.seconds,
        default=None,
    )
