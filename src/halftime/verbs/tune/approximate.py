"""Fixes that draw other pictures: the sweep's choice and the others, each within the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halftime.fix.table import FIXES
from halftime.records import Session
from halftime.records.recipe import Choice
from halftime.records.tune import SweepPoint
from halftime.verbs.tune import rivals
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.candidates import combine
from halftime.verbs.tune.climber import Climber
from halftime.verbs.tune.decide import Choices
from halftime.verbs.tune.ending import Ending, ending_seconds
from halftime.verbs.tune.measure import Measurements
from halftime.verbs.tune.quality import Pictures, too_lossy
from halftime.verbs.tune.search import Climb
from halftime.verbs.tune.space import with_full_ends
from halftime.verbs.tune.sweep import choice_of
from halftime.verbs.tune.threshold import last_good, search_of, with_value

_QUALITY_PROMPTS = 8
_SEARCH_PROMPTS = 4  # for each value that is searched; the rest is judged by _QUALITY_PROMPTS


def is_approximate(choice: Choice) -> bool:
    """Whether its pictures are meant to be others."""
    return FIXES[choice.name].level == "approximate"


@dataclass(frozen=True)
class Approximation:
    """What may be lost: `loss` is a mean FLIP error."""

    climber: Climber
    loss: float

    @property
    def measurements(self) -> Measurements:
        return self.climber.measurements

    @property
    def _bench(self) -> Bench:
        return self.climber.measurements.bench

    def sweep_only(
        self, search: Climb, session: Session, pictures: Pictures
    ) -> tuple[SweepPoint, ...]:
        """The sweep is the answer; its choice is measured like any other fix."""
        points = self.measurements.sweep(pictures, self.loss, session.wall_seconds)
        best = choice_of(points, type(self._bench.pipeline.scheduler).__name__)
        choices = [best] if best else []
        self._climb_within_loss(search, choices, session, pictures)
        return points

    def climb(self, search: Climb, session: Session, pictures: Pictures) -> tuple[SweepPoint, ...]:
        """The sweep's choice and the other approximate fixes, each within the loss."""
        points = self.measurements.sweep(pictures, self.loss, session.wall_seconds)
        best = choice_of(points, type(self._bench.pipeline.scheduler).__name__)
        usable, refused = self.climber.candidates(approximate=True)
        choices = [best] if best else []
        choices += [choice for choice in usable if is_approximate(choice)]
        self._climb_within_loss(search, choices, session, pictures)
        self.rival_stack(search, choices, session, pictures)
        tried = {choice.name for choice in choices}
        search.ladder += [
            rung for rung in refused if rung.level == "approximate" and rung.fix not in tried
        ]
        return points

    def rival_stack(
        self, search: Climb, choices: Sequence[Choice], session: Session, pictures: Pictures
    ) -> None:
        """What the plan's runtimes exclude is stacked without them, and the two are compared."""
        if not rivals.barred(search.plan, choices) or self.climber.goal.reached(
            search.seconds, search.speedup
        ):
            return
        self.climber.say("now without runtimes, which exclude some of what was to be tried")
        equivalent = self.climber.candidates(approximate=False)[0]
        own_code = [choice for choice in equivalent if not rivals.takes_over(choice)]
        rival = Climb(self._bench.start, seconds=session.wall_seconds)
        self.climber.climb(rival, own_code, session)
        self.climber.drop_culprits(rival, pictures)
        self._climb_within_loss(rival, choices, session, pictures)
        if rival.plan == self._bench.start:
            return
        trial = self.measurements.trial(search.plan, rival.plan)
        rivals.compare(search, rival, trial)
        self.climber.say(f"with runtimes or without: {rivals.stack_words(search.plan)}")

    def _climb_within_loss(
        self, search: Climb, choices: Sequence[Choice], session: Session, pictures: Pictures
    ) -> None:
        """The climb, where what pays is drawn with, too."""
        question = Ending(_QUALITY_PROMPTS, 0, 0, 0)
        judging_seconds = ending_seconds(question, 0.0, session.wall_seconds)
        self.climber.climb(
            search,
            choices,
            session,
            lambda plan: self._loss(plan, pictures),
            judging_seconds,
            lambda plan, choice: self._settled(plan, choice, pictures),
        )

    def _settled(self, plan: Choices, choice: Choice, pictures: Pictures) -> Choice | None:
        """The fix with the last value of what is searched whose pictures are within the loss.

        A plan that cannot be drawn with is left to its trial, which says why; and where no time is
        left for a question, the value is the fix's own.
        """
        search = search_of(choice)
        if search is None:
            return choice
        question = Ending(_SEARCH_PROMPTS, 0, 0, 0)
        steps = self.measurements.workload.steps

        def at(value: float) -> Choice:
            return with_full_ends(with_value(choice, search, value), steps)

        def is_good(value: float) -> bool:
            self.climber.progress(f"{choice.name}: {search.setting} {value:g}", 0, 1)
            candidate = combine(plan, at(value))[0]
            loss = too_lossy(pictures.verdict(candidate, _SEARCH_PROMPTS)[0], self.loss)
            self._bench.keep_only(self._bench.start, plan)
            return not loss

        cost = ending_seconds(question, 0.0, self.climber.pace.calls(plan)[1])
        if not self.measurements.budget.allows(len(search.values).bit_length() * cost):
            return choice
        try:
            value = last_good(search.values, is_good)
        except Exception:  # as a trial may fail, in any way
            return choice
        return None if value is None else at(value)

    def _loss(self, plan: Choices, pictures: Pictures) -> str:
        """Why a plan with approximate fixes loses too much, or ''."""
        if not any(map(is_approximate, plan)):
            return ""
        return too_lossy(pictures.verdict(plan, _QUALITY_PROMPTS)[0], self.loss)
