"""`tune`: profile, climb, verify, bisect where that fails, measure once more, and write it all
down."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.stats import median, paired_ratio
from halftime.base.version import version
from halftime.fix.apply import architecture, open_findings
from halftime.fix.table import FIXES
from halftime.pipeline.device import device_of, this_environment
from halftime.pipeline.load import Loaded, load
from halftime.records import Environment, Session, Workload
from halftime.records.priors import predicted
from halftime.records.recipe import Choice, Plan, Recipe, Rung
from halftime.records.tune import Partial, SweepPoint, Trial, Tuning
from halftime.records.verdict import Verdict
from halftime.verbs.profile.run import Settings as ProfileSettings
from halftime.verbs.profile.run import measure_in_turns
from halftime.verbs.tune.bench import WARM_PROMPTS, Bench, Choices
from halftime.verbs.tune.candidates import candidates
from halftime.verbs.tune.decide import Budget, Goal, culprit
from halftime.verbs.tune.quality import (
    LOSS,
    Pictures,
    fewer_words,
    least_seconds,
    loss_words,
    prompts_within,
    seconds_needed,
    too_lossy,
)
from halftime.verbs.tune.search import Climb, Tools, climb
from halftime.verbs.tune.state import State, opened
from halftime.verbs.tune.sweep import choice_of, sweep
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, prompt_set, render
from halftime.verbs.verify.run import check_repeats

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_CONFIRM_ROUNDS = 11
# of the budget, for the sweep and the approximate fixes where they are allowed
_APPROXIMATE_SHARE = 0.4
_TURNS = 40  # prompts for timing, so that none comes twice within a trial
_SWEEP_PROMPTS = 6
_QUALITY_PROMPTS = 8


@dataclass(frozen=True)
class Options:
    """What a user may choose. Seconds; `loss` is the mean FLIP error that approximate fixes may
    cost together."""

    goal: Goal = field(default_factory=Goal)
    budget: float = 600.0
    approximate: bool = False
    sweep_only: bool = False
    loss: float = LOSS
    prompts: int = 24
    partial: Path | None = None

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise BadInput(f"prompts is {self.prompts}; it must be 1 or more.")
        if not self.loss > 0:
            raise BadInput(
                f"loss is {self.loss:g}; it must be above 0, a mean FLIP error, for example "
                f"{LOSS:g}."
            )


@dataclass
class Outcome:
    """The record, and both sets of pictures for a look."""

    tuning: Tuning
    baseline: PictureSet | None
    candidate: PictureSet | None


def tune(
    pipeline: DiffusionPipeline | str | None = None,
    workload: Workload | None = None,
    *,
    target: float | None = None,
    speedup: float | None = None,
    budget: float = 600.0,
    approximate: bool = False,
    prompts: int = 24,
    loss: float = LOSS,
) -> Tuning:
    """Find the fixes that make one call faster without changing its pictures, and prove both.

    `pipeline` is a diffusers pipeline, or what `halftime.load_pipeline` takes; it is left as it was
    found. `target` and `budget` are seconds, `speedup` is baseline / tuned; without either the
    fastest recipe within the budget is sought. Only bit-exact and equivalent fixes are tried unless
    `approximate`; `loss` is then the mean FLIP error (a ratio, 0..1) that they may cost together.
    `prompts` pictures are compared at the end. Raises HalftimeError.
    """
    chosen = workload or Workload()
    given = pipeline is None or isinstance(pipeline, str)
    loaded = load(pipeline, chosen) if given else Loaded(pipeline, type(pipeline).__name__, ())
    options = Options(Goal(target, speedup), budget, approximate, loss=loss, prompts=prompts)
    return tuned(loaded, chosen, options).tuning


def tuned(
    loaded: Loaded,
    workload: Workload,
    options: Options,
    *,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda words: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """As `tune`, for a loaded pipeline, with progress, with words for each decision, and
    restartable."""
    place = this_environment(str(device_of(loaded.pipeline)))
    shape = architecture(loaded.pipeline)
    fresh = Partial(
        architecture=shape, workload_hash=workload.content_hash(), environment=place.identity()
    )
    state = opened(options.partial, fresh)
    budget = Budget(options.budget, clock, state.partial.spent_seconds)
    if state.resumed:
        say(f"continued: {len(state.partial.trials)} trials are known from an interrupted run")
    bench = Bench(loaded.pipeline, workload, prompt_set(workload, max(options.prompts, _TURNS)))
    try:
        return _Run(loaded, workload, options, state, budget, bench, place, progress, say).go()
    finally:
        bench.close()


@dataclass
class _Run:
    loaded: Loaded
    workload: Workload
    options: Options
    state: State
    budget: Budget
    bench: Bench
    place: Environment
    progress: Progress
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)

    def go(self) -> Outcome:
        """The whole of it, in order."""
        self._refuse_early()
        before = self._profile()
        wall = before.wall_seconds
        self.say(
            f"baseline: {wall:.3f} s a call; most of it in "
            f"{max(before.ledger, key=lambda r: r.seconds).stage}"
        )
        count = prompts_within(self.budget.total, wall, self.options.prompts)
        if count < self.options.prompts:
            self.notes.append(fewer_words(count, self.options.prompts, self.budget.total))
        self.budget.reserve = seconds_needed(wall, count)
        pictures = Pictures(self.bench, self.workload, self.bench.prompts[:count], self.progress)
        state = Climb(seconds=wall)
        if not self.options.sweep_only:
            self._equivalent(state, before, pictures)
        points = (
            self._approximate(state, before, pictures) if self._wants_approximate(state) else ()
        )
        return self._finish(state, before, pictures, points)

    def _refuse_early(self) -> None:
        """Before minutes are spent: a pipeline that does not repeat itself, and a budget in which
        nothing fits."""
        live = self.bench.at(())
        again = render(
            live.pipeline, self.workload, self.bench.prompts[:WARM_PROMPTS], "baseline, again"
        )
        check_repeats(live.first, again)
        wall = self.bench.seconds(live.pipeline, 0)
        least = least_seconds(wall, self.options.prompts)
        if self.budget.total < least:
            raise BadInput(
                f"budget is {units.seconds(self.budget.total)}; a call takes "
                f"{units.seconds(wall)} here, and measuring "
                f"it, one trial and a verification take about {units.seconds(least)}. Give "
                "more, for example --budget "
                f"{math.ceil(4 * least / 60)}m."
            )

    # ---- measuring

    def _profile(self) -> Session:
        known = self.state.session
        if known is not None:
            return known
        (session,) = self._profiled(())
        self.state.add(self.budget.spent(), session=session)
        return session

    def _measure(self, incumbent: Choices, candidate: Choices) -> Trial:
        known = self.state.trial(incumbent, candidate)
        if known is not None:
            return known
        self.bench.keep_only((), incumbent)
        trial = self.bench.trial(incumbent, candidate, self.progress)
        self.state.add_trial(self.budget.spent(), trial)
        return trial

    def _tools(
        self, before: Session, acceptable: Callable[[Choices], str] = lambda plan: ""
    ) -> Tools:
        return Tools(
            measure=self._measure,
            predict=lambda plan: predicted(before, plan),
            known=lambda incumbent, plan: self.state.trial(incumbent, plan) is not None,
            budget=self.budget,
            goal=self.options.goal,
            baseline_seconds=before.wall_seconds,
            acceptable=acceptable,
        )

    # ---- equivalent fixes

    def _equivalent(self, state: Climb, before: Session, pictures: Pictures) -> None:
        found, refused = candidates(self.loaded.pipeline, approximate=False)
        kept_back = _APPROXIMATE_SHARE * self.budget.total if self.options.approximate else 0.0
        self.budget.reserve += kept_back
        self._climb(state, found, self._tools(before))
        self.budget.reserve -= kept_back
        state.ladder += [
            rung
            for rung in refused
            if not (self.options.approximate and rung.level == "approximate")
        ]
        self._blame(state, pictures)

    def _climb(self, state: Climb, found: Sequence[Choice], tools: Tools) -> None:
        shown = len(state.ladder)
        # One candidate at a time would hide the queue; the words come out as the ladder grows.
        measure = tools.measure

        def spoken(incumbent: Choices, candidate: Choices) -> Trial:
            nonlocal shown
            shown = self._speak(state, shown)
            self.progress(f"trying {candidate[-1].name}", 0, 1)
            return measure(incumbent, candidate)

        climb(state, found, replace(tools, measure=spoken))
        self._speak(state, shown)

    def _speak(self, state: Climb, shown: int) -> int:
        for rung in state.ladder[shown:]:
            self.say(rung_words(rung))
        return len(state.ladder)

    def _blame(self, state: Climb, pictures: Pictures) -> None:
        """Verify what stands; while its pictures differ, find the fix that makes them differ and
        drop it."""
        self._fit(pictures)
        while state.kept:
            verdict = pictures.verdict(state.kept)[0]
            if verdict.verdict != "different":
                return
            self.say(
                f"pictures differ: {verdict.reasons[0] if verdict.reasons else ''}; looking "
                "for the fix"
            )
            bad = culprit(state.kept, lambda some: self._same(tuple(some), pictures))
            state.drop(
                bad.name,
                "dropped by verification: "
                f"{verdict.reasons[0] if verdict.reasons else 'different'}",
            )
            self.say(f"{bad.name}: dropped, its pictures differ")

    def _fit(self, pictures: Pictures) -> None:
        """Fewer pictures where the machine became slower than it was at first."""
        seconds = [second for trial in self.state.partial.trials[-1:] for second in trial.baseline]
        if seconds:
            left = self.budget.total - self.budget.spent()
            count = prompts_within(left, median(seconds), len(pictures.prompts), share=1.0)
            if count < len(pictures.prompts):
                self.notes.append(fewer_words(count, self.options.prompts, self.budget.total))
            pictures.prompts = pictures.prompts[:count]

    def _same(self, plan: Choices, pictures: Pictures) -> bool:
        same = not plan or pictures.verdict(plan)[0].verdict != "different"
        self.bench.keep_only(())
        return same

    # ---- approximate fixes

    def _wants_approximate(self, state: Climb) -> bool:
        if self.options.sweep_only:
            return True
        return self.options.approximate and not self.options.goal.reached(
            state.seconds, state.speedup
        )

    def _approximate(
        self, state: Climb, before: Session, pictures: Pictures
    ) -> tuple[SweepPoint, ...]:
        points = self._sweep(pictures)
        own = type(self.loaded.pipeline.scheduler).__name__
        best = choice_of(points, own)
        found = [best] if best else []
        if self.options.sweep_only:
            # The sweep is the answer; its choice is measured like any other fix.
            self._climb(state, found, self._tools(before, lambda plan: self._loss(plan, pictures)))
            return points
        more, refused = candidates(self.loaded.pipeline, approximate=True)
        found += [choice for choice in more if FIXES[choice.name].level == "approximate"]
        self._climb(state, found, self._tools(before, lambda plan: self._loss(plan, pictures)))
        tried = {choice.name for choice in found}
        state.ladder += [r for r in refused if r.level == "approximate" and r.fix not in tried]
        return points

    def _loss(self, plan: Choices, pictures: Pictures) -> str:
        if all(FIXES[choice.name].level != "approximate" for choice in plan):
            return ""
        return too_lossy(pictures.verdict(plan, _QUALITY_PROMPTS)[0], self.options.loss)

    def _sweep(self, pictures: Pictures) -> tuple[SweepPoint, ...]:
        if self.state.sweep:
            return self.state.sweep
        few = pictures.prompts[:_SWEEP_PROMPTS]
        points = sweep(
            self.loaded.pipeline,
            pictures.reference(),
            self.workload,
            few,
            loss=self.options.loss,
            budget=self.budget,
            progress=self.progress,
        )
        self.state.add(self.budget.spent(), sweep=points)
        return points

    # ---- the end

    def _finish(
        self, state: Climb, before: Session, pictures: Pictures, points: tuple[SweepPoint, ...]
    ) -> Outcome:
        self.bench.keep_only((), state.kept)
        trial = self.bench.confirm(state.kept, _CONFIRM_ROUNDS, self.progress)
        ratio = paired_ratio(trial.baseline, trial.candidate)
        if state.kept and ratio.value < 1.0:
            for choice in state.kept:
                state.drop(
                    choice.name,
                    "dropped: all together they were slower than the baseline at the end",
                )
            trial = self.bench.confirm((), _CONFIRM_ROUNDS, self.progress)
            ratio = paired_ratio(trial.baseline, trial.candidate)
        verdict, drawn = pictures.verdict(state.kept)
        if any(FIXES[choice.name].level == "approximate" for choice in state.kept):
            self.notes.append(
                f"the recipe holds approximate fixes; their loss together: {loss_words(verdict)}"
            )
        before, after = self._profiled((), state.kept)
        seconds = median(trial.baseline), median(trial.candidate)
        recipe = self._recipe(state, seconds, ratio.value, verdict)
        goal = self.options.goal
        reached = None if goal == Goal() else goal.reached(seconds[1], ratio.value)
        tuning = Tuning(
            halftime=version(),
            created=recipe.created,
            model=self.loaded.name,
            pipeline=type(self.loaded.pipeline).__name__,
            goal=str(self.options.goal),
            reached=reached,
            stopped=state.stopped,
            baseline_seconds=seconds[0],
            tuned_seconds=seconds[1],
            speedup=ratio.value,
            speedup_low=ratio.low,
            speedup_high=ratio.high,
            verdict=verdict.verdict,
            ladder=tuple(state.ladder),
            recipe=recipe,
            budget_seconds=self.budget.total,
            spent_seconds=self.budget.spent(),
            resumed=self.state.resumed,
            sweep=points,
            before=before,
            after=after,
            evidence=verdict,
            environment=self.place,
            workload=self.workload,
            workload_hash=self.workload.content_hash(),
            prompts=verdict.pairs,
            prompts_hash=_prompts_hash(pictures.prompts),
            notes=(*self.loaded.notes, *self.notes),
        )
        return Outcome(tuning, pictures.baseline, drawn)

    def _profiled(self, *plans: Choices) -> list[Session]:
        """A session for each plan, measured in turns."""
        several = [
            Loaded(self.bench.at(plan).pipeline, self.loaded.name, self.loaded.notes)
            for plan in plans
        ]
        settings = ProfileSettings(runs=5, warmup=1, probes=False)
        sessions = measure_in_turns(several, self.workload, settings, progress=self.progress)
        return [
            open_findings(session, Plan(fixes=plan))
            for session, plan in zip(sessions, plans, strict=True)
        ]

    def _recipe(
        self, state: Climb, seconds: tuple[float, float], speedup: float, verdict: Verdict
    ) -> Recipe:
        return Recipe(
            halftime=version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=self.loaded.name,
            pipeline=type(self.loaded.pipeline).__name__,
            architecture=architecture(self.loaded.pipeline),
            fixes=state.kept,
            environment=self.place,
            workload_hash=self.workload.content_hash(),
            baseline_seconds=seconds[0],
            tuned_seconds=seconds[1],
            speedup=speedup,
            verdict=verdict.verdict,
            ladder=tuple(state.ladder),
        )


def _prompts_hash(prompts: Sequence[PicturePrompt]) -> str:
    return hashlib.sha256("\n".join(prompt.text for prompt in prompts).encode()).hexdigest()[:16]


def rung_words(rung: Rung) -> str:
    """One line on a decision."""
    settings = f" {msgspec.json.encode(rung.settings).decode()}" if rung.settings else ""
    mark = "kept" if rung.kept else "not tried" if rung.observed is None else "dropped"
    seen = (
        ""
        if rung.observed is None
        else f" predicted {rung.predicted:.2f}x, observed {rung.observed:.2f}x;"
    )
    return f"{mark}: {rung.fix}{settings}:{seen} {rung.why}"
