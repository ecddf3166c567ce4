"""`tune`: profile, climb, verify, bisect where that fails, measure once more, write it all down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.stats import paired_ratio
from halftime.fix.apply import architecture
from halftime.fix.offload import accelerator
from halftime.pipeline.device import (
    checked_device,
    default_device,
    device_of,
    this_environment,
)
from halftime.pipeline.inputs import described
from halftime.pipeline.load import LoadedPipeline, load_or_take
from halftime.records import Environment, Session, Workload
from halftime.records.recipe import Rung
from halftime.records.tune import MemoryUse, Partial, SweepPoint, Trial, Tuning
from halftime.verbs.tune.approximate import Approximation, is_approximate
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.certify import Certification, Certifier
from halftime.verbs.tune.climber import Climber
from halftime.verbs.tune.decide import (
    FIRST_ROUNDS,
    WARM_PROMPTS,
    Budget,
    Choices,
    Goal,
)
from halftime.verbs.tune.ending import Ending, ending_seconds, ending_within
from halftime.verbs.tune.fitting import brought_back, fit, plan_words
from halftime.verbs.tune.measure import PROFILE, Measurements
from halftime.verbs.tune.memory import MemoryLimit, limit_on, memory_of
from halftime.verbs.tune.options import Options
from halftime.verbs.tune.pace import CallPace
from halftime.verbs.tune.quality import (
    LOSS,
    Pictures,
    approximate_words,
    fewer_words,
    least_seconds,
)
from halftime.verbs.tune.record import LastMeasurement, adopt, recipe_of, tuning_of
from halftime.verbs.tune.search import Climb
from halftime.verbs.tune.state import opened
from halftime.verbs.tune.visible_goal import VisibleGoal, certifiable_prompts, certificate_seconds
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, prompt_set, render
from halftime.verbs.verify.run import check_repeats

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Of the budget, for the sweep and the approximate fixes where they are allowed.
_APPROXIMATE_SHARE = 0.4
_CERTIFYING_SHARE = 0.5  # of the budget, for the search and the tests of a certificate
_ENDING_SHARE = 0.4  # of the budget, at most, is set aside for the end
_FRESH_PROCESS_SECONDS = 10.0  # to import torch and diffusers, and to load
_FASTER = 0.7  # what a call of a recipe is taken to take of the baseline's, before one is there
_TIMING_PROMPTS = 40  # so many that none comes twice within a trial


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
    pace: CallPace = field(init=False)
    climber: Climber = field(init=False)
    approximation: Approximation = field(init=False)

    def __post_init__(self) -> None:
        self.pace = CallPace(self.measurements)
        self.climber = Climber(
            self.measurements, self.options.goal, self.pace, self.progress, self.say
        )
        self.approximation = Approximation(self.climber, self.options.loss)

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
        pictures.enough = lambda: self.pace.must_measure(pictures)
        search = Climb(self.bench.start, start, seconds=wall)
        if not self.options.sweep_only:
            self._equivalent(search, session, pictures)
        points: tuple[SweepPoint, ...] = ()
        if self.options.sweep_only:
            points = self.approximation.sweep_only(search, session, pictures)
        elif goal is not None:
            self._certify(search, goal, certifiable, pictures)
        elif self.options.approximate and not self.options.goal.reached(
            search.seconds, search.speedup
        ):
            points = self.approximation.climb(search, session, pictures)
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

    def _equivalent(self, search: Climb, session: Session, pictures: Pictures) -> None:
        """Bit-exact and equivalent fixes; those whose pictures differ after all are dropped."""
        choices, refused = self.climber.candidates(approximate=False)
        share = _APPROXIMATE_SHARE if self.options.approximate else 0.0
        share = _CERTIFYING_SHARE if self.options.visible else share
        self.budget.reserve += share * self.budget.total
        self.climber.climb(search, choices, session)
        self.budget.reserve -= share * self.budget.total
        search.ladder += [
            rung
            for rung in refused
            if not (self._tries_approximate and rung.level == "approximate")
        ]
        self.climber.drop_culprits(search, pictures)

    # ---- the end

    def _finish(self, search: Climb, pictures: Pictures, points: tuple[SweepPoint, ...]) -> Outcome:
        """Measure baseline and recipe once more, verify the recipe, and write it all down."""
        self.budget.reserve = 0.0
        # first what the answer cannot do without; in most runs it is there already
        certificate = self.certification.certificate if self.certification else None
        if certificate is None:
            self.pace.verify_fewer_if_slower(search.plan, pictures)
        verified = search.plan
        verdict, candidate = pictures.verdict(verified)
        trial = self._confirm(search)
        if search.plan != verified:  # emptied
            verdict, candidate = pictures.verdict(search.plan)
        if any(map(is_approximate, search.plan)):
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
        rounds = self.pace.ending(search.plan).rounds
        trial = self.bench.confirm(search.plan, rounds, self.progress, self.budget.allows)
        slower = paired_ratio(trial.baseline, trial.candidate).value < 1.0
        if search.plan != self.bench.start and slower:
            reason = "dropped: all together they were slower than the baseline at the end"
            self.climber.back_to_start(search, reason)
            trial = self.bench.confirm(
                self.bench.start, FIRST_ROUNDS, self.progress, self.budget.allows
            )
        return trial

    def _ledgers(self, plan: Choices) -> tuple[Session, Session | None]:
        """The baseline's and the recipe's, in turns; the first profile alone where there is no time
        for more."""
        baseline, tuned = self.pace.calls(plan)
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
