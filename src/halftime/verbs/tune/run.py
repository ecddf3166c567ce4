"""`tune`: profile, climb, verify, bisect where that fails, measure once more, write it all down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.stats import median, paired_ratio
from halftime.fix.apply import architecture
from halftime.fix.offload import accelerator
from halftime.fix.table import FIXES
from halftime.pipeline.device import (
    checked_device,
    default_device,
    device_of,
    this_environment,
)
from halftime.pipeline.inputs import described
from halftime.pipeline.load import LoadedPipeline, load_or_take
from halftime.records import Environment, Session, Workload
from halftime.records.priors import predicted, setup_seconds
from halftime.records.recipe import Choice, Rung
from halftime.records.tune import MemoryUse, Partial, SweepPoint, Trial, Tuning
from halftime.verbs.tune import rivals
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.candidates import candidates, combine
from halftime.verbs.tune.certify import (
    Certification,
    Certifier,
    VisibleGoal,
    certifiable_prompts,
    certificate_seconds,
)
from halftime.verbs.tune.decide import (
    FIRST_ROUNDS,
    WARM_PROMPTS,
    Budget,
    Choices,
    Goal,
    plan_key,
    suspects,
)
from halftime.verbs.tune.ending import Ending, ending_seconds, ending_within
from halftime.verbs.tune.fitting import brought_back, fit, plan_words
from halftime.verbs.tune.measure import PROFILE, Measurements
from halftime.verbs.tune.memory import MemoryLimit, limit_on, memory_of
from halftime.verbs.tune.quality import (
    LOSS,
    Pictures,
    approximate_words,
    fewer_words,
    least_seconds,
    too_lossy,
)
from halftime.verbs.tune.record import LastMeasurement, adopt, recipe_of, rung_words, tuning_of
from halftime.verbs.tune.search import Climb, Tools, climb, slowness
from halftime.verbs.tune.state import opened
from halftime.verbs.tune.sweep import choice_of
from halftime.verbs.tune.threshold import last_good, search_of, with_value
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, prompt_set, render
from halftime.verbs.verify.run import check_repeats

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

# Of the budget, for the sweep and the approximate fixes where they are allowed.
_APPROXIMATE_SHARE = 0.4
_CERTIFYING_SHARE = 0.5  # of the budget, for the search and the tests of a certificate
_ENDING_SHARE = 0.4  # of the budget, at most, is set aside for the end
_FRESH_PROCESS_SECONDS = 10.0  # to import torch and diffusers, and to load
_FASTER = 0.7  # what a call of a recipe is taken to take of the baseline's, before one is there
_TIMING_PROMPTS = 40  # so many that none comes twice within a trial
_QUALITY_PROMPTS = 8
_SEARCH_PROMPTS = 4  # for each value that is searched; the rest is judged by _QUALITY_PROMPTS


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
    # then approximate fixes are tried too, and so many pictures may differ visibly
    visible: VisibleGoal | None = None
    memory: int | None = None  # bytes that a call may take of its device

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise BadInput(f"prompts is {self.prompts}; it must be 1 or more.")
        if self.memory is not None and (self.sweep_only or self.visible):
            option = "--sweep" if self.sweep_only else "--visible"
            raise BadInput(
                f"--memory and {option} exclude each other: find a plan that fits with --memory "
                f"first, and what {option} finds goes on top of that recipe."
            )
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
    artefact_seconds: float = 0.0  # what a fresh process is expected to take for the recipe


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
    memory: str | None = None,
) -> Tuning:
    """Find the fixes that make one call faster without changing its pictures, and prove both.

    `pipeline` is a diffusers pipeline, or what `halftime.load_pipeline` takes; it stays as it was.
    `target` and `budget` are seconds, `speedup` is baseline / tuned; without either, `tune` looks
    for the fastest recipe within the budget. Only bit-exact and equivalent fixes are tried unless
    `approximate`; `loss` is then the mean FLIP error (a ratio, 0..1) that they may cost together.
    `prompts` pictures are compared at the end. `memory` ('12GB') is what a call may take of its
    device: what does not fit is never kept. Raises HalftimeError.
    """
    begun = time.perf_counter()
    workload = workload or Workload()
    limit = memory_of(memory)
    options = Options(
        Goal(target, speedup), budget, approximate, loss=loss, prompts=prompts, memory=limit
    )
    loaded = load_or_take(pipeline, workload, on_host=limit is not None)
    return tuned(loaded, workload, options, begun=begun).tuning


def tuned(
    loaded: LoadedPipeline,
    workload: Workload,
    options: Options,
    *,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda words: None,
    clock: Callable[[], float] = time.perf_counter,
    begun: float | None = None,
) -> Outcome:
    """As `tune`, for a loaded pipeline: with progress, a sentence for each decision, and
    restartable. The budget counts from `begun` on the clock, or else from now."""
    memory = _memory_limit(loaded.pipeline, workload, options)
    device = str(memory.device if memory else device_of(loaded.pipeline))
    environment = this_environment(device)
    workload = msgspec.structs.replace(described(workload), device=device)
    fresh = Partial(
        architecture=architecture(loaded.pipeline),
        workload_hash=workload.content_hash(),
        environment=environment.identity(),
        memory_bytes=options.memory,
    )
    state = opened(options.partial, fresh)
    budget = Budget(options.budget, clock, state.partial.spent_seconds, begun=begun)
    if state.resumed:
        say(f"continued: {len(state.partial.trials)} trials are known from an interrupted run")
    prompts = prompt_set(workload, max(options.prompts, _TIMING_PROMPTS))
    bench = Bench(loaded.pipeline, workload, prompts, clock, memory)
    measurements = Measurements(loaded, workload, bench, state, budget, progress)
    with brought_back(loaded.pipeline), closing(bench):
        return TuningRun(options, measurements, environment, progress, say).outcome()


def _memory_limit(
    pipeline: DiffusionPipeline, workload: Workload, options: Options
) -> MemoryLimit | None:
    """On the device that the workload names, or else the accelerator, whether or not the pipeline
    is there by now."""
    if options.memory is None:
        return None
    own = device_of(pipeline)
    named = checked_device(workload.device) if workload.device else None
    return limit_on(named or accelerator(own) or default_device(), options.memory)


@dataclass
class TuningRun:
    """One run of `tune`: its phases in order, each working on the climb so far."""

    options: Options
    measurements: Measurements
    environment: Environment
    progress: Progress
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    certification: Certification | None = None
    memory: MemoryUse | None = None

    @property
    def slowness(self) -> float:
        """How much longer than expected fixes took to be put on, at most."""
        return slowness(self.measurements.state.partial.trials)

    @property
    def loaded(self) -> LoadedPipeline:
        return self.measurements.loaded

    @property
    def workload(self) -> Workload:
        return self.measurements.workload

    @property
    def bench(self) -> Bench:
        return self.measurements.bench

    @property
    def budget(self) -> Budget:
        return self.measurements.budget

    def outcome(self) -> Outcome:
        """The whole of it, in order."""
        goal = self.options.visible
        certifiable = certifiable_prompts(self.workload, goal) if goal else []
        start = self._start()
        self._refuse_early()
        session = self.measurements.baseline()
        wall = session.wall_seconds
        longest = max(session.ledger, key=lambda row: row.seconds).stage
        self.say(f"baseline: {wall:.3f} s a call; most of it in {longest}")
        share = min(_ENDING_SHARE * self.budget.total, self.budget.remaining())
        ending = ending_within(share, wall, _FASTER * wall, self.options.prompts)
        self.budget.reserve = ending_seconds(ending, wall, _FASTER * wall)
        pictures = Pictures(
            self.bench,
            self.workload,
            self.bench.prompts[: ending.prompts],
            self.progress,
            ending.floor_prompts,
        )
        pictures.enough = lambda: self._must_measure(pictures)
        search = Climb(self.bench.start, start, seconds=wall)
        if not self.options.sweep_only:
            self._equivalent(search, session, pictures)
        points: tuple[SweepPoint, ...] = ()
        if self.options.sweep_only:
            points = self._sweep_only(search, session, pictures)
        elif goal is not None:
            self._certify(search, goal, certifiable, pictures)
        elif self.options.approximate and not self.options.goal.reached(
            search.seconds, search.speedup
        ):
            points = self._approximate(search, session, pictures)
        return self._finish(search, pictures, points)

    def _start(self) -> list[Rung]:
        """Make it fit, where memory is limited, and say what came of each way."""
        if self.bench.memory is None:
            return []
        self.progress("making it fit", 0, 1)
        start, looks = fit(
            self.bench,
            self.bench.memory,
            pictures=len(self.workload.prompts) * self.workload.images_per_prompt,
            approximate=self.options.approximate,
            before=self.measurements.state.partial.start,
        )
        self.bench.start = start.plan
        self.measurements.state.add(self.budget.spent(), start=start.plan)
        limit = self.bench.memory.limit
        self.memory = MemoryUse(
            limit=limit, as_it_is=looks[0].peak, baseline=start.peak, start=start.plan
        )
        for look in looks:
            self.say(f"{plan_words(look.plan)}: {look.outcome()}")
        if start.plan:
            self.notes.append(
                f"as it is the pipeline does not fit into {units.size(limit)} "
                f"({looks[0].why_not}): every call here, the baseline's too, has "
                f"{plan_words(start.plan)}, and takes {units.size(start.peak)}"
            )
        rungs = [look.rung(look.plan == start.plan) for look in looks]
        return [rung for rung in rungs if rung is not None]

    def _refuse_early(self) -> None:
        """Before minutes are spent: a pipeline that does not repeat itself, and a budget in which
        nothing fits."""
        baseline = self.bench.at(self.bench.start)
        prompts = self.bench.prompts[:WARM_PROMPTS]
        again = render(baseline.pipeline, self.workload, prompts, "baseline, again")
        check_repeats(baseline.first, again)
        wall = self.bench.seconds(baseline.pipeline, 0)
        least = self.budget.spent() + least_seconds(wall, self.options.prompts)
        if self.options.visible is not None:
            least += certificate_seconds(self.options.visible, wall)
        if self.budget.total < least:
            raise BadInput(
                f"budget is {units.seconds(self.budget.total)}; a call takes "
                f"{units.seconds(wall)} here, and measuring it, one trial and a verification take "
                f"about {units.seconds(least)}. Give more, for example --budget "
                f"{math.ceil(4 * least / 60)}m."
            )

    @property
    def _device(self) -> torch.device | None:
        """Where calls compute, where the pipeline may be on the host."""
        return self.bench.memory.device if self.bench.memory else None

    @property
    def _tries_approximate(self) -> bool:
        return self.options.approximate or self.options.visible is not None

    # ---- the certificate

    def _certify(
        self,
        search: Climb,
        goal: VisibleGoal,
        prompts: Sequence[PicturePrompt],
        pictures: Pictures,
    ) -> None:
        """The fastest setting of approximate fixes that can be certified joins the plan."""
        certifier = Certifier(
            self.bench,
            self.workload,
            goal,
            prompts,
            search.plan,
            search.speedup,
            self.budget,
            self.progress,
            self.say,
        )
        self.certification = certification = certifier.run()
        setting, verdict = certification.setting, certification.verdict
        if setting is None or verdict is None or certification.candidate is None:
            self.notes.append(f"nothing could be certified: {goal.needs}, and no setting passed")
            return
        pictures.take(setting.plan, certification.baseline, certification.candidate, verdict)
        adopt(search, certification)

    # ---- the climb

    def _climb(
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
            budget=self.budget,
            goal=self.options.goal,
            baseline_seconds=session.wall_seconds,
            unacceptable=unacceptable,
            judging_seconds=judging_seconds,
            settle=settle,
            slowness=lambda: self.slowness,
        )
        climb(search, choices, tools)
        say_new_rungs()

    def _equivalent(self, search: Climb, session: Session, pictures: Pictures) -> None:
        """Bit-exact and equivalent fixes; those whose pictures differ after all are dropped."""
        choices, refused = candidates(self.loaded.pipeline, False, self._device)
        share = _APPROXIMATE_SHARE if self.options.approximate else 0.0
        share = _CERTIFYING_SHARE if self.options.visible else share
        self.budget.reserve += share * self.budget.total
        self._climb(search, choices, session)
        self.budget.reserve -= share * self.budget.total
        search.ladder += [
            rung
            for rung in refused
            if not (self._tries_approximate and rung.level == "approximate")
        ]
        self._drop_culprits(search, pictures)

    def _drop_culprits(self, search: Climb, pictures: Pictures) -> None:
        """Verify the plan; while its pictures differ, find the fix that makes them differ and drop
        it."""
        self._verify_fewer_if_slower(search, pictures)
        while search.plan != self.bench.start:
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
            if self.bench.too_large(search.plan):
                self._back_to_start(search, "dropped: it does not fit without what was dropped")

    def _suspects(self, plan: Choices, pictures: Pictures) -> Sequence[Choice]:
        """Of what the climb put on, the fix by which the pictures differ."""
        always = tuple(choice for choice in plan if not self._is_added(choice))
        return suspects(
            [choice for choice in plan if self._is_added(choice)],
            lambda prefix: self._same((*always, *prefix), pictures),
            lambda prefix: self._has_time_for((*always, *prefix), pictures),
        )

    def _is_added(self, choice: Choice) -> bool:
        """Whether the climb put a fix on, and not the need to fit."""
        return choice.name not in {start.name for start in self.bench.start}

    def _back_to_start(self, search: Climb, why: str) -> None:
        for choice in search.plan:
            if self._is_added(choice):
                search.drop(choice.name, why)
        search.plan = self.bench.start

    def _has_time_for(self, plan: Choices, pictures: Pictures) -> bool:
        """Whether one more plan can be put on, drawn with and compared, and the end be measured."""
        baseline, tuned = self._pace(plan)
        question = Ending(len(pictures.prompts), 0, 0, 0)
        end = Ending(0, 0, 4, 0)
        setup = sum(map(setup_seconds, plan)) * self.slowness
        return (
            setup
            + ending_seconds(question, 0.0, tuned, metrics=self._metrics_seconds(pictures))
            + ending_seconds(end, baseline, tuned, verified=True)
            <= self.budget.remaining()
        )

    def _verify_fewer_if_slower(self, search: Climb, pictures: Pictures) -> None:
        """Fewer pictures where the machine has become slower than it was at first."""
        baseline, tuned = self._pace(search.plan)
        metrics = self._metrics_seconds(pictures)
        ending = ending_within(
            self.budget.remaining(), baseline, tuned, len(pictures.prompts), metrics=metrics
        )
        pictures.prompts = pictures.prompts[: ending.prompts]
        pictures.floor_prompts = min(pictures.floor_prompts, ending.floor_prompts)

    def _pace(self, plan: Choices) -> tuple[float, float]:
        """Seconds of a call of the baseline and of one with `plan`, as they were last."""
        trials = [t for t in self.measurements.state.partial.trials if t.baseline]
        session = self.measurements.baseline()
        baseline = median(trials[-1].baseline) if trials else session.wall_seconds
        alive = self.bench.live.get(plan_key(plan))
        tuned = alive.call_seconds if alive else baseline
        for trial in reversed(trials):
            if plan_key(trial.candidate_plan) == plan_key(plan):
                # as much slower as the baseline has become since
                tuned = median(trial.candidate) * baseline / median(trial.baseline)
                break
        return baseline, tuned

    def _metrics_seconds(self, pictures: Pictures) -> float:
        """What a comparison takes, on a machine that may have become slower than it was."""
        now, first = self._pace(self.bench.start)[0], self.measurements.baseline().wall_seconds
        return pictures.compare_seconds * max(1.0, now / first)

    def _must_measure(self, pictures: Pictures) -> bool:
        """Whether drawing ends: what is left is needed for comparing and the last rounds."""
        baseline, tuned = self._pace(self.bench.start)
        metrics = self._metrics_seconds(pictures)
        end = ending_seconds(Ending(1, 0, 2, 0), baseline, tuned, metrics=metrics)
        return self.budget.remaining() <= end

    def _same(self, plan: Choices, pictures: Pictures) -> bool:
        same = not plan or pictures.verdict(plan)[0].verdict != "different"
        self.bench.keep_only(self.bench.start)
        return same

    def _sweep_only(
        self, search: Climb, session: Session, pictures: Pictures
    ) -> tuple[SweepPoint, ...]:
        """The sweep is the answer; its choice is measured like any other fix."""
        points = self.measurements.sweep(pictures, self.options.loss, session.wall_seconds)
        best = choice_of(points, type(self.loaded.pipeline.scheduler).__name__)
        choices = [best] if best else []
        self._climb_within_loss(search, choices, session, pictures)
        return points

    def _climb_within_loss(
        self, search: Climb, choices: Sequence[Choice], session: Session, pictures: Pictures
    ) -> None:
        """The climb, where what pays is drawn with, too."""
        question = Ending(_QUALITY_PROMPTS, 0, 0, 0)
        judging_seconds = ending_seconds(question, 0.0, session.wall_seconds)
        self._climb(
            search,
            choices,
            session,
            lambda plan: self._loss(plan, pictures),
            judging_seconds,
            lambda plan, choice: self._settled(plan, choice, pictures),
        )

    def _approximate(
        self, search: Climb, session: Session, pictures: Pictures
    ) -> tuple[SweepPoint, ...]:
        """The sweep's choice and the other approximate fixes, each within the loss."""
        points = self.measurements.sweep(pictures, self.options.loss, session.wall_seconds)
        best = choice_of(points, type(self.loaded.pipeline.scheduler).__name__)
        usable, refused = candidates(self.loaded.pipeline, True, self._device)
        choices = [best] if best else []
        choices += [choice for choice in usable if _is_approximate(choice)]
        self._climb_within_loss(search, choices, session, pictures)
        self._rival_stack(search, choices, session, pictures)
        tried = {choice.name for choice in choices}
        search.ladder += [
            rung for rung in refused if rung.level == "approximate" and rung.fix not in tried
        ]
        return points

    def _rival_stack(
        self, search: Climb, choices: Sequence[Choice], session: Session, pictures: Pictures
    ) -> None:
        """What the plan's runtimes exclude is stacked without them, and the two are compared."""
        if not rivals.barred(search.plan, choices) or self.options.goal.reached(
            search.seconds, search.speedup
        ):
            return
        self.say("now without runtimes, which exclude some of what was to be tried")
        equivalent = candidates(self.loaded.pipeline, False, self._device)[0]
        own_code = [choice for choice in equivalent if not rivals.takes_over(choice)]
        rival = Climb(self.bench.start, seconds=session.wall_seconds)
        self._climb(rival, own_code, session)
        self._drop_culprits(rival, pictures)
        self._climb_within_loss(rival, choices, session, pictures)
        if rival.plan == self.bench.start:
            return
        trial = self.measurements.trial(search.plan, rival.plan)
        rivals.compare(search, rival, trial)
        self.say(f"with runtimes or without: {rivals.stack_words(search.plan)}")

    def _settled(self, plan: Choices, choice: Choice, pictures: Pictures) -> Choice | None:
        """The fix with the last value of what is searched whose pictures are within the loss.

        A plan that cannot be drawn with is left to its trial, which says why; and where no time is
        left for a question, the value is the fix's own.
        """
        search = search_of(choice)
        if search is None:
            return choice
        question = Ending(_SEARCH_PROMPTS, 0, 0, 0)

        def is_good(value: float) -> bool:
            self.progress(f"{choice.name}: {search.setting} {value:g}", 0, 1)
            candidate = combine(plan, with_value(choice, search, value))[0]
            loss = too_lossy(pictures.verdict(candidate, _SEARCH_PROMPTS)[0], self.options.loss)
            self.bench.keep_only(self.bench.start, plan)
            return not loss

        cost = ending_seconds(question, 0.0, self._pace(plan)[1])
        if not self.budget.allows(len(search.values).bit_length() * cost):
            return choice
        try:
            value = last_good(search.values, is_good)
        except Exception:  # as a trial may fail, in any way
            return choice
        return None if value is None else with_value(choice, search, value)

    def _loss(self, plan: Choices, pictures: Pictures) -> str:
        """Why a plan with approximate fixes loses too much, or ''."""
        if not any(map(_is_approximate, plan)):
            return ""
        return too_lossy(pictures.verdict(plan, _QUALITY_PROMPTS)[0], self.options.loss)

    # ---- the end

    def _finish(self, search: Climb, pictures: Pictures, points: tuple[SweepPoint, ...]) -> Outcome:
        """Measure baseline and recipe once more, verify the recipe, and write it all down."""
        self.budget.reserve = 0.0
        # first what the answer cannot do without; in most runs it is there already
        certificate = self.certification.certificate if self.certification else None
        if certificate is None:
            self._verify_fewer_if_slower(search, pictures)
        verified = search.plan
        verdict, candidate = pictures.verdict(verified)
        trial = self._confirm(search)
        if search.plan != verified:  # emptied
            verdict, candidate = pictures.verdict(search.plan)
        if any(map(_is_approximate, search.plan)):
            self.notes.append(approximate_words(verdict))
        if certificate is None and verdict.pairs < self.options.prompts:
            words = fewer_words(verdict.pairs, self.options.prompts, self.budget.total)
            self.notes.append(words)
        last = LastMeasurement(trial, verdict, *self._ledgers(search.plan))
        recipe = recipe_of(search, last, self.measurements, self.environment)
        if certificate is not None and search.plan == verified:
            recipe = msgspec.structs.replace(recipe, certificate=certificate)
        tuning = tuning_of(
            recipe,
            last,
            self.measurements,
            environment=self.environment,
            goal=self.options.goal,
            stopped=search.stopped,
            points=points,
            prompts=pictures.prompts,
            notes=self.notes,
            tried=self.certification.tried if self.certification else (),
            memory=self._memory_use(search.plan),
        )
        setup = self.bench.at(search.plan).setup_seconds
        return Outcome(tuning, pictures.baseline, candidate, _FRESH_PROCESS_SECONDS + setup)

    def _memory_use(self, plan: Choices) -> MemoryUse | None:
        if self.memory is None:
            return None
        return msgspec.structs.replace(self.memory, tuned=self.bench.at(plan).peak_bytes)

    def _confirm(self, search: Climb) -> Trial:
        """Baseline and recipe alone; a recipe that is slower after all is emptied."""
        self.bench.keep_only(self.bench.start, search.plan)
        rounds = self._ending(search.plan).rounds
        trial = self.bench.confirm(search.plan, rounds, self.progress, self.budget.allows)
        slower = paired_ratio(trial.baseline, trial.candidate).value < 1.0
        if search.plan != self.bench.start and slower:
            reason = "dropped: all together they were slower than the baseline at the end"
            self._back_to_start(search, reason)
            trial = self.bench.confirm(
                self.bench.start, FIRST_ROUNDS, self.progress, self.budget.allows
            )
        return trial

    def _ending(self, plan: Choices) -> Ending:
        """How much can still be measured, now that the pictures are compared."""
        left = self.budget.remaining()
        return ending_within(left, *self._pace(plan), 0, verified=True)

    def _ledgers(self, plan: Choices) -> tuple[Session, Session | None]:
        """The baseline's and the recipe's, in turns; the first profile alone where there is no time
        for more."""
        baseline, tuned = self._pace(plan)
        for runs in (5, 3, 2, 1):
            ending = Ending(0, 0, 0, runs)
            if ending_seconds(ending, baseline, tuned, verified=True) <= self.budget.remaining():
                settings = replace(PROFILE, runs=runs, warmup=ending.warmup)
                before, after = self.measurements.profiles(
                    self.bench.start, plan, settings=settings
                )
                return before, after
        self.notes.append("the budget left no time for a ledger of the recipe")
        return self.measurements.baseline(), None


def _is_approximate(choice: Choice) -> bool:
    return FIXES[choice.name].level == "approximate"
