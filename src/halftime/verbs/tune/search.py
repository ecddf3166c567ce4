"""The climb: the most promising fix first, each measured on top of the plan so far, kept where it
pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from halftime.base import units
from halftime.base.stats import median
from halftime.fix.table import FIXES
from halftime.records.priors import setup_seconds
from halftime.records.recipe import Choice, Rung
from halftime.records.tune import Trial
from halftime.verbs.tune.candidates import combine, described
from halftime.verbs.tune.decide import (
    NO_TIME,
    WARM_PROMPTS,
    Budget,
    Choices,
    Goal,
    gain,
    pays,
    stacked,
    trial_seconds,
)

# A rival whose prediction is worse than this share of what it would replace is not worth its trial.
RIVAL = 0.75


@dataclass
class Climb:
    """The plan so far, and how it came about."""

    plan: Choices = ()
    ladder: list[Rung] = field(default_factory=list)
    seconds: float = 0.0  # of a call with the plan
    speedup: float = 1.0
    stopped: str = "everything was tried"

    def drop(self, name: str, why: str) -> None:
        """Take a fix off again, and say so on its rungs."""
        self.plan = tuple(choice for choice in self.plan if choice.name != name)
        self.ladder = [
            msgspec.structs.replace(rung, kept=False, why=why)
            if rung.fix == name and rung.kept
            else rung
            for rung in self.ladder
        ]


@dataclass(frozen=True)
class Tools:
    """What the climb asks for: measurements, predictions, time, and whether a plan's pictures are
    good enough."""

    measure: Callable[[Choices, Choices], Trial]
    predict: Callable[[Choices], float]
    # whether an interrupted run has measured incumbent and candidate already
    is_measured: Callable[[Choices, Choices], bool]
    budget: Budget
    goal: Goal
    baseline_seconds: float
    unacceptable: Callable[[Choices], str] = lambda plan: ""  # why; '' where the plan is acceptable
    # A fix with what is to be found out about it, on top of a plan; None where no value will do.
    settle: Callable[[Choices, Choice], Choice | None] = lambda plan, choice: choice
    judging_seconds: float = 0.0  # what `unacceptable` takes
    # how much longer than their priors say fixes took to be put on
    slowness: Callable[[], float] = lambda: 1.0


def climb(start: Climb, candidates: Sequence[Choice], tools: Tools) -> Climb:
    """Try the candidates, the largest predicted gain first, until the goal or the budget is
    reached."""
    state = start
    # By the gain of a fix alone: what the plan has already cancels in the order.
    queue = sorted(candidates, key=lambda choice: -tools.predict((choice,)))
    for index, choice in enumerate(queue):
        if tools.goal.reached(state.seconds or tools.baseline_seconds, state.speedup):
            state.stopped = f"the goal of {tools.goal} was reached"
            reason = "the goal was reached before"
            state.ladder += [_untried(untried, reason) for untried in queue[index:]]
            return state
        rung = _step(state, choice, tools)  # may mark rungs of the ladder, so it comes first
        state.ladder.append(rung)
    return state


def slowness(trials: Sequence[Trial]) -> float:
    """How much longer than their priors say fixes took to be put on, at most; 1 or more."""
    ratios = [1.0]
    for trial in trials:
        expected = sum(map(setup_seconds, trial.candidate_plan))
        first_calls = WARM_PROMPTS * median(trial.candidate) if trial.candidate else 0.0
        if expected > 0 and trial.setup_seconds > 0:
            ratios.append((trial.setup_seconds - first_calls) / expected)
    return max(ratios)


def _untried(choice: Choice, why: str, predicted: float | None = None) -> Rung:
    level = FIXES[choice.name].level
    return Rung(
        fix=choice.name, level=level, settings=choice.settings, predicted=predicted, why=why
    )


def _step(state: Climb, choice: Choice, tools: Tools) -> Rung:
    """One candidate: the rung that says what came of it. A candidate that pays joins the plan."""
    plan, replaced = combine(state.plan, choice)
    predicted_gain = tools.predict(plan) / tools.predict(state.plan)
    predicted = state.speedup * predicted_gain
    if replaced and predicted_gain < RIVAL:
        rivals = " and ".join(described(rival) for rival in replaced)
        return _untried(choice, f"excludes {rivals}, of which more is expected", predicted)
    if not tools.is_measured(state.plan, plan):
        setup = sum(map(setup_seconds, plan)) * tools.slowness()
        incumbent_seconds = state.seconds or tools.baseline_seconds
        cost = trial_seconds(tools.baseline_seconds, incumbent_seconds, setup)
        cost += tools.judging_seconds
        if not tools.budget.allows(cost):
            state.stopped = "the budget was spent"
            left = units.seconds(max(0.0, tools.budget.left()))
            reason = f"no time left (about {units.seconds(cost)} needed, {left} left)"
            return _untried(choice, reason, predicted)
    settled = tools.settle(state.plan, choice)
    if settled is None:
        return _untried(choice, "too lossy with every value that was tried", predicted)
    choice = settled
    plan, replaced = combine(state.plan, choice)
    trial = tools.measure(state.plan, plan)
    if trial.failure:
        if trial.failure == NO_TIME:
            state.stopped = "the budget was spent"
        rung = _untried(choice, trial.failure, predicted)
        return msgspec.structs.replace(rung, peak_bytes=trial.peak_bytes)
    rung = _judged(choice, trial, predicted, tools.unacceptable)
    if rung.kept:
        _adopt(state, choice, trial, replaced)
    return rung


def _judged(
    choice: Choice, trial: Trial, predicted: float, unacceptable: Callable[[Choices], str]
) -> Rung:
    """The verdict on a finished trial."""
    total, step = stacked(trial), gain(trial)
    reason = "" if pays(trial) else _too_little(step.value, step.low)
    reason = reason or unacceptable(trial.candidate_plan)
    paid = f"{units.ratio(step.value)} on top of the plan so far ({units.ratio(step.low)} or more)"
    return Rung(
        fix=choice.name,
        level=FIXES[choice.name].level,
        settings=choice.settings,
        predicted=predicted,
        observed=total.value,
        observed_low=total.low,
        observed_high=total.high,
        gain=step.value,
        gain_low=step.low,
        gain_high=step.high,
        kept=not reason,
        why=reason or paid,
        peak_bytes=trial.peak_bytes,
    )


def _too_little(value: float, low: float) -> str:
    if value < 0.995:
        return f"slower: {units.ratio(value)} on top of the plan so far"
    return f"does not pay beyond noise: {units.ratio(value)}, at least {units.ratio(low)}"


def _adopt(state: Climb, choice: Choice, trial: Trial, replaced: Choices) -> None:
    """Make the candidate the plan, and mark the rungs of what had to go altogether."""
    names = {choice.name for choice in trial.candidate_plan}
    for loser in replaced:
        if loser.name not in names:
            state.drop(loser.name, f"replaced by {described(choice)}, which is faster")
    state.plan = trial.candidate_plan
    state.seconds = median(trial.candidate)
    state.speedup = stacked(trial).value
