"""The climb: the most promising fix first, each measured on top of what stands, kept where it
pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from halftime.base import units
from halftime.fix.table import FIXES
from halftime.records.priors import setup_seconds
from halftime.records.recipe import Choice, Rung
from halftime.records.tune import Trial
from halftime.verbs.tune.candidates import Choices, combine, described
from halftime.verbs.tune.decide import Budget, Goal, gain, pays, stacked, trial_seconds, typical

# a rival whose prediction is worse than this share of what stands is not worth its trial
RIVAL = 0.75


@dataclass
class Climb:
    """What stands, and how it came about."""

    kept: Choices = ()
    ladder: list[Rung] = field(default_factory=list)
    seconds: float = 0.0  # of a call with what stands
    speedup: float = 1.0
    stopped: str = "everything was tried"

    def drop(self, name: str, why: str) -> None:
        """Take a fix off again, and say so on its rungs."""
        self.kept = tuple(choice for choice in self.kept if choice.name != name)
        self.ladder = [
            msgspec.structs.replace(rung, kept=False, why=why)
            if rung.fix == name and rung.kept
            else rung
            for rung in self.ladder
        ]


@dataclass(frozen=True)
class Tools:
    """What the climb asks: measurements, predictions, time, and whether a plan's pictures are good
    enough."""

    measure: Callable[[Choices, Choices], Trial]
    predict: Callable[[Choices], float]
    known: Callable[[Choices, Choices], bool]  # measured by an interrupted run already
    budget: Budget
    goal: Goal
    baseline_seconds: float
    acceptable: Callable[[Choices], str] = lambda plan: ""  # why not; '' where they are


def climb(start: Climb, candidates: Sequence[Choice], tools: Tools) -> Climb:
    """Try the candidates, the largest predicted gain first, until the goal or the budget is
    reached."""
    state = start
    # The gain of a fix alone: what stands already cancels in the order.
    queue = sorted(candidates, key=lambda choice: -tools.predict((choice,)))
    for index, choice in enumerate(queue):
        if tools.goal.reached(state.seconds or tools.baseline_seconds, state.speedup):
            state.stopped = f"the goal of {tools.goal} was reached"
            state.ladder += [
                _untried(rest, "the goal was reached before") for rest in queue[index:]
            ]
            return state
        rungs = _step(state, choice, tools)  # may mark rungs of the ladder, so it comes first
        state.ladder += rungs
    return state


def _untried(choice: Choice, why: str, predicted: float | None = None) -> Rung:
    level = FIXES[choice.name].level
    return Rung(
        fix=choice.name, level=level, settings=choice.settings, predicted=predicted, why=why
    )


def _step(state: Climb, choice: Choice, tools: Tools) -> list[Rung]:
    plan, gone = combine(state.kept, choice)
    foretold = tools.predict(plan) / tools.predict(state.kept)
    predicted = state.speedup * foretold
    if gone and foretold < RIVAL:
        rivals = " and ".join(described(each) for each in gone)
        return [_untried(choice, f"excludes {rivals}, of which more is expected", predicted)]
    standing = state.seconds or tools.baseline_seconds
    cost = trial_seconds(tools.baseline_seconds, standing, sum(map(setup_seconds, plan)))
    if not tools.known(state.kept, plan) and not tools.budget.allows(cost):
        state.stopped = "the budget was spent"
        words = (
            f"no time left (about {units.seconds(cost)} needed, "
            f"{units.seconds(max(0.0, tools.budget.left()))} left)"
        )
        return [_untried(choice, words, predicted)]
    trial = tools.measure(state.kept, plan)
    if trial.failure:
        return [_untried(choice, trial.failure, predicted)]
    return [_judged(state, choice, plan, gone, trial, predicted, tools)]


def _judged(
    state: Climb,
    choice: Choice,
    plan: Choices,
    gone: Choices,
    trial: Trial,
    predicted: float,
    tools: Tools,
) -> Rung:
    seen, more = stacked(trial), gain(trial)
    why = "" if pays(trial) else _too_little(more.value, more.low)
    why = why or tools.acceptable(plan)
    rung = Rung(
        fix=choice.name,
        level=FIXES[choice.name].level,
        settings=choice.settings,
        predicted=predicted,
        observed=seen.value,
        observed_low=seen.low,
        observed_high=seen.high,
        kept=not why,
        why=why
        or f"{units.ratio(more.value)} on top of what stood ({units.ratio(more.low)} or more)",
    )
    if rung.kept:
        _replace(state, plan, gone, choice)
        state.kept, state.seconds, state.speedup = plan, typical(trial.candidate), seen.value
    return rung


def _too_little(value: float, low: float) -> str:
    if value < 0.995:
        return f"slower: {units.ratio(value)} on top of what stood"
    return f"does not pay beyond noise: {units.ratio(value)}, at least {units.ratio(low)}"


def _replace(state: Climb, plan: Choices, gone: Choices, winner: Choice) -> None:
    """Mark the rungs of what had to go altogether."""
    names = {choice.name for choice in plan}
    for lost in gone:
        if lost.name not in names:
            state.drop(lost.name, f"replaced by {described(winner)}, which is faster")
