"""Fixes are tried on top of the plan so far; what makes pictures differ after all is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halftime.base.progress import Progress
from halftime.records import Session
from halftime.records.priors import predicted
from halftime.records.recipe import Choice, Rung
from halftime.records.tune import Trial
from halftime.verbs.tune.candidates import candidates
from halftime.verbs.tune.decide import Choices, Goal, suspects
from halftime.verbs.tune.measure import Measurements
from halftime.verbs.tune.pace import CallPace
from halftime.verbs.tune.quality import Pictures
from halftime.verbs.tune.record import rung_words
from halftime.verbs.tune.search import Climb, Tools, climb
from halftime.verbs.tune.space import with_full_ends


@dataclass(frozen=True)
class Climber:
    """Climbs until the goal is reached, and says what came of each fix."""

    measurements: Measurements
    goal: Goal
    pace: CallPace
    progress: Progress
    say: Callable[[str], None]

    def candidates(self, *, approximate: bool) -> tuple[list[Choice], list[Rung]]:
        """What applies to the pipeline where its calls compute, and what does not with the
        reason."""
        bench = self.measurements.bench
        device = bench.memory.device if bench.memory else None
        choices, refused = candidates(bench.pipeline, approximate, device)
        steps = self.measurements.workload.steps
        return [with_full_ends(choice, steps) for choice in choices], refused

    def climb(
        self,
        search: Climb,
        choices: Sequence[Choice],
        session: Session,
        unacceptable: Callable[[Choices], str] = lambda plan: "",
        judging_seconds: float = 0.0,
        settle: Callable[[Choices, Choice], Choice | None] = lambda plan, choice: choice,
    ) -> None:
        """Try these fixes on top of the plan so far, and say what came of each."""
        spoken = len(search.ladder)

        def say_new_rungs() -> None:
            nonlocal spoken
            for rung in search.ladder[spoken:]:
                self.say(rung_words(rung))
            spoken = len(search.ladder)

        def measure(incumbent: Choices, candidate: Choices) -> Trial:
            say_new_rungs()
            self.progress(f"trying {candidate[-1].name}", 0, 1)
            return self.measurements.trial(incumbent, candidate)

        tools = Tools(
            measure=measure,
            predict=lambda plan: predicted(session, plan),
            is_measured=self.measurements.is_measured,
            budget=self.measurements.budget,
            goal=self.goal,
            baseline_seconds=session.wall_seconds,
            unacceptable=unacceptable,
            judging_seconds=judging_seconds,
            settle=settle,
            slowness=lambda: self.pace.slowness,
        )
        climb(search, choices, tools)
        say_new_rungs()

    def drop_culprits(self, search: Climb, pictures: Pictures) -> None:
        """Verify the plan; while its pictures differ, find the fix that makes them differ and drop
        it."""
        self.pace.verify_fewer_if_slower(search.plan, pictures)
        while search.plan != self.measurements.bench.start:
            verdict = pictures.verdict(search.plan)[0]
            if verdict.verdict != "different":
                return
            reason = verdict.reasons[0] if verdict.reasons else "different"
            self.say(f"pictures differ: {reason}; looking for the fix")
            fixes = self._suspects(search.plan, pictures)
            if len(fixes) > 1:
                reason += "; no time was left to find out by which fix"
            for fix in fixes:
                search.drop(fix.name, f"dropped by verification: {reason}")
            self.say(f"{', '.join(fix.name for fix in fixes)}: dropped, the pictures differ")
            if self.measurements.bench.too_large(search.plan):
                self.back_to_start(search, "dropped: it does not fit without what was dropped")

    def _suspects(self, plan: Choices, pictures: Pictures) -> Sequence[Choice]:
        """Of what the climb put on, the fix by which the pictures differ."""
        always = tuple(choice for choice in plan if not self._is_added(choice))
        return suspects(
            [choice for choice in plan if self._is_added(choice)],
            lambda prefix: self._same((*always, *prefix), pictures),
            lambda prefix: self.pace.has_time_for((*always, *prefix), pictures),
        )

    def _is_added(self, choice: Choice) -> bool:
        """Whether the climb put a fix on, and not the need to fit."""
        return choice.name not in {start.name for start in self.measurements.bench.start}

    def back_to_start(self, search: Climb, why: str) -> None:
        """Drop all that the climb put on."""
        for choice in search.plan:
            if self._is_added(choice):
                search.drop(choice.name, why)
        search.plan = self.measurements.bench.start

    def _same(self, plan: Choices, pictures: Pictures) -> bool:
        same = not plan or pictures.verdict(plan)[0].verdict != "different"
        self.measurements.bench.keep_only(self.measurements.bench.start)
        return same
