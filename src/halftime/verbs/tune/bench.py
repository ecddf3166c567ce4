"""Plans side by side: twins over the same weights, called in turns, so that drift cancels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from halftime.base.progress import Progress
from halftime.fix.apply import applied, choose
from halftime.fix.probe import check_levels
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.device import device_of, synchronize
from halftime.pipeline.twin import twin
from halftime.records import Workload
from halftime.records.recipe import Plan
from halftime.records.tune import Trial
from halftime.verbs.profile.call import quiet_progress_bars
from halftime.verbs.tune.decide import (
    FIRST_ROUNDS,
    MOST_ROUNDS,
    NO_TIME,
    WARM_PROMPTS,
    Choices,
    plan_key,
    undecided,
)
from halftime.verbs.tune.memory import MemoryLimit
from halftime.verbs.verify.pictures import PictureSet, paired
from halftime.verbs.verify.render import PicturePrompt, render
from halftime.verbs.verify.tripwires import trips

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class LivePlan:
    """A twin with its plan on, its first pictures, and how long they took beyond steady ones."""

    pipeline: DiffusionPipeline
    stack: ExitStack
    first: PictureSet
    setup_seconds: float
    call_seconds: float  # of its first call after those
    peak_bytes: int | None = None  # what it takes of the device, where that is limited


@dataclass
class Bench:
    """Keeps the plans that are being compared alive, and times them."""

    pipeline: DiffusionPipeline
    workload: Workload
    prompts: Sequence[PicturePrompt]
    clock: Callable[[], float] = time.perf_counter
    memory: MemoryLimit | None = None
    start: Choices = ()  # the baseline's, where the pipeline as it is takes too much memory
    live: dict[bytes, LivePlan] = field(default_factory=dict)

    def at(self, plan: Choices) -> LivePlan:
        """The plan, applied and warm."""
        key = plan_key(plan)
        if key not in self.live:
            self.live[key] = self._start(plan)
        return self.live[key]

    def _start(self, plan: Choices) -> LivePlan:
        stack = ExitStack()
        try:
            pipeline = twin(self.pipeline)
            stack.enter_context(quiet_progress_bars(pipeline))
            # not part of what is timed
            check_levels(pipeline, choose(Plan(fixes=plan)), steps=self.workload.steps)
            begun = self.clock()
            pictures: list[PictureSet] = []

            def draw() -> None:
                stack.enter_context(applied(pipeline, Plan(fixes=plan), probe=False))
                warm = self.prompts[:WARM_PROMPTS]
                pictures.append(render(pipeline, self.workload, warm, "candidate"))

            peak = self.memory.peak_of(self.pipeline, draw) if self.memory else None
            if self.memory is None:
                draw()
            setup = self.clock() - begun
            call_seconds = self.seconds(pipeline, -1)
        except BaseException:
            stack.close()
            raise
        return LivePlan(pipeline, stack, pictures[0], setup, call_seconds, peak)

    def seconds(self, pipeline: DiffusionPipeline, turn: int) -> float:
        """One call, timed. Each turn has its own prompt, so that a cache of prompts pays only where
        the workload repeats them."""
        arguments = call_arguments(pipeline, self.workload_of(turn))
        device = device_of(pipeline)
        synchronize(device)
        begun = self.clock()
        pipeline(**arguments)
        synchronize(device)
        return self.clock() - begun

    def workload_of(self, turn: int) -> Workload:
        """The workload of one turn: with its own prompts where the user gave some, else with one of
        the test set's that the warm-up did not draw."""
        if self.workload.prompts != Workload().prompts:
            return self.workload
        return msgspec.structs.replace(
            self.workload, prompts=(self.prompts[(WARM_PROMPTS + turn) % len(self.prompts)].text,)
        )

    def keep_only(self, *plans: Choices) -> None:
        """Take back all plans but these."""
        for key in self.live.keys() - {plan_key(plan) for plan in plans}:
            self.live.pop(key).stack.close()

    def close(self) -> None:
        """Take back all plans."""
        self.keep_only()

    def too_large(self, plan: Choices) -> str:
        """Why a plan takes more memory than is allowed; '' where it does not."""
        return self.memory.too_large(self.at(plan).peak_bytes) if self.memory else ""

    def _refusal(self, plan: Choices) -> str:
        """Why a plan is not even put on where memory is limited, or ''."""
        if self.memory is None:
            return ""
        missing = {choice.name for choice in self.start} - {choice.name for choice in plan}
        if missing:
            return f"excludes {', '.join(sorted(missing))}, without which it does not fit"
        return self.memory.unmeasurable(plan)

    def trial(
        self,
        incumbent: Choices,
        candidate: Choices,
        progress: Progress,
        allows: Callable[[float], bool] = lambda seconds: True,
    ) -> Trial:
        """Baseline, incumbent and candidate in turns, for as many rounds as the decision needs.

        `allows` says whether something of so many seconds still fits. Where the first rounds do
        not, the trial fails with NO_TIME.
        """
        empty = Trial(incumbent_plan=incumbent, candidate_plan=candidate)
        refusal = self._refusal(candidate)
        if refusal:
            return msgspec.structs.replace(empty, failure=refusal)
        try:
            baseline, _, new = self.at(self.start), self.at(incumbent), self.at(candidate)
        # a fix may fail in any way; it is dropped, and the reason is reported
        except Exception as error:
            return msgspec.structs.replace(empty, failure=_reason(error))
        empty = msgspec.structs.replace(empty, peak_bytes=new.peak_bytes)
        failure = self.too_large(candidate)
        if failure:
            return msgspec.structs.replace(empty, setup_seconds=new.setup_seconds, failure=failure)
        broken = [
            trip for trip in trips(paired(baseline.first, new.first)) if trip.side == "candidate"
        ]
        if broken:
            failure = f"broken picture: {broken[0].reason}"
            return msgspec.structs.replace(empty, setup_seconds=new.setup_seconds, failure=failure)
        plans = (self.start, incumbent, candidate)
        round_seconds = sum(self.at(plan).call_seconds for plan in plans)
        rows: list[tuple[float, ...]] = []
        trial = empty
        while len(rows) < FIRST_ROUNDS or (undecided(trial) and len(rows) < MOST_ROUNDS):
            if not allows(max(1, FIRST_ROUNDS - len(rows)) * round_seconds):
                break
            progress("in turns", len(rows), MOST_ROUNDS)
            rows.append(self._turn(plans, len(rows)))
            round_seconds = sum(rows[-1])
            trial = _with_rounds(empty, rows, new.setup_seconds)
        if len(rows) < FIRST_ROUNDS:
            return msgspec.structs.replace(empty, setup_seconds=new.setup_seconds, failure=NO_TIME)
        return trial

    def _turn(self, plans: tuple[Choices, ...], turn: int) -> tuple[float, ...]:
        """Seconds of one call of each plan. Each turn starts with another one; a plan that is there
        twice is called once."""
        keys = [plan_key(plan) for plan in plans]
        first = turn % len(keys)
        seconds: dict[bytes, float] = {}
        for key in dict.fromkeys(keys[first:] + keys[:first]):
            seconds[key] = self.seconds(self.live[key].pipeline, turn)
        return tuple(seconds[key] for key in keys)

    def confirm(
        self,
        plan: Choices,
        rounds: int,
        progress: Progress,
        allows: Callable[[float], bool] = lambda seconds: True,
    ) -> Trial:
        """Baseline against one plan, alone and longer; one round at least, and no more than
        `allows`."""
        self.at(self.start)
        tuned = self.at(plan)
        rows: list[tuple[float, float, float]] = []
        for index in range(rounds):
            if rows and not allows(rows[-1][1] + rows[-1][2]):
                break
            progress("baseline against recipe", index, rounds)
            seconds = self._turn((self.start, plan), index)
            rows.append((seconds[0], seconds[0], seconds[1]))
        return _with_rounds(
            Trial(incumbent_plan=self.start, candidate_plan=plan), rows, tuned.setup_seconds
        )


def _with_rounds(trial: Trial, rows: Sequence[tuple[float, ...]], setup: float) -> Trial:
    baseline, incumbent, candidate = zip(*rows, strict=True)
    return msgspec.structs.replace(
        trial, baseline=baseline, incumbent=incumbent, candidate=candidate, setup_seconds=setup
    )


def _reason(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {line}"[:300]
