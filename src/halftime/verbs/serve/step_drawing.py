"""The worker's second mode: requests scheduled at the step. Each turn is one forward pass for the
requests whose turn it is; whoever comes in between has its say before the next.

Cancelling, deadlines, previews and memory act between turns. A request that the loop does not
understand (it starts from a picture, has a LoRA, is profiled) is drawn whole, in one turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from halftime.base.errors import OutOfMemory
from halftime.base.ledger import measured
from halftime.records.serve import PolicyName
from halftime.verbs.profile.call import out_of_memory_explained, tree
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.preview import Previews, SeenStep, preview_steps
from halftime.verbs.serve.step_graphs import StepGraphs
from halftime.verbs.serve.step_loop import Estimate, Loop, advance, begin, finish
from halftime.verbs.serve.step_policies import Task, largest, next_batch
from halftime.verbs.serve.stepping import NobodyWaits, Watch
from halftime.verbs.serve.studio import Drawing, Studio, as_pixels, mode_of, stages_of
from halftime.verbs.serve.warmup import UNGUIDED
from halftime.verbs.serve.watching import give_memory_back

T = TypeVar("T")
DENOISE = "denoise"
_WEIGHT = 0.2  # of the newest step in the moving average
_UNKNOWN_SECONDS = 1.0  # of a picture of a size that was never drawn

# What may have become of a request when it is looked at between two turns.
Outcome = Literal["waited for", "cancelled", "late"]


class StepPicture(NamedTuple):
    """A picture, and what it took. Seconds."""

    pixels: np.ndarray  # uint8 [height, width, 3]
    stages: dict[str, float]  # add up to `compute_seconds`
    compute_seconds: float  # of all turns that it took part in
    own_seconds: float  # its share of them
    aside_seconds: float  # from its first turn to its last, in others' turns
    batch_size: int  # pictures in its largest forward pass
    drawing: Drawing | None = None  # of a request that was drawn whole


@dataclass
class Request:
    """One that was let in. Moments are on the clock of the drawing."""

    job: Job
    number: int
    arrived: float
    tag: float = 0.0
    loop: Loop | None = None
    begun: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    own_seconds: float = 0.0
    batch_size: int = 1

    @property
    def size(self) -> tuple[int, int]:
        return self.job.width, self.job.height

    @property
    def steps_left(self) -> int:
        return self.job.steps if self.loop is None else len(self.loop.timesteps) - self.loop.step

    def add(self, stages: dict[str, float], pictures: int = 1) -> None:
        """What a turn took, of so many pictures."""
        for stage, seconds in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds
            self.own_seconds += seconds / pictures
        self.batch_size = max(self.batch_size, pictures)


@dataclass
class StepTimes:
    """Seconds of a step, and of what is before and after the loop, by size, as measured: moving
    averages."""

    steps: dict[Hashable, float] = field(default_factory=dict)
    before: dict[Hashable, float] = field(default_factory=dict)
    after: dict[Hashable, float] = field(default_factory=dict)

    def learn(
        self, part: Literal["steps", "before", "after"], size: Hashable, seconds: float
    ) -> None:
        """One more measurement."""
        averages = {"steps": self.steps, "before": self.before, "after": self.after}[part]
        before = averages.get(size, seconds)
        averages[size] = before + _WEIGHT * (seconds - before)

    def left(self, request: Request) -> float:
        """What a request still takes, alone."""
        size = request.size
        before = 0.0 if request.loop is not None else self.before.get(size, 0.0)
        return before + self._rest(size, request.steps_left)

    def whole(self, size: Hashable, steps: int) -> float:
        """All of a request of so many steps, alone."""
        return self.before.get(size, 0.0) + self._rest(size, steps)

    def longest(self, steps: int) -> float:
        """A request of so many steps, of the size that takes longest."""
        return max((self.whole(size, steps) for size in self.steps), default=_UNKNOWN_SECONDS)

    def _rest(self, size: Hashable, steps: int) -> float:
        if size not in self.steps:
            return _UNKNOWN_SECONDS
        return steps * self.steps[size] + self.after.get(size, 0.0)


class Reports(Protocol):
    """Who is told what happens."""

    def outcome(self, request: Request) -> Outcome:
        """Whether anybody waits for it still."""

    def started(self, request: Request) -> None:
        """Its first turn has come."""

    def stepped(self, requests: Sequence[Request]) -> None:
        """These took a step."""

    def finished(self, request: Request, picture: StepPicture) -> None:
        """It is done."""

    def failed(self, request: Request, error: Exception) -> None:
        """It cannot be done."""

    def left(self, request: Request, outcome: Outcome) -> None:
        """Nobody waits for it any more; it was dropped."""


@dataclass
class StepDrawing:
    """The requests of one worker, and whose turn it is. `sizes` are the batch sizes that pay."""

    studio: Studio
    reports: Reports
    policy: PolicyName = "head-start"
    most_steps: int = 1  # of what is offered
    sizes: Sequence[int] = (1,)
    memory_bytes: float = math.inf  # of what is put aside
    previews: Previews | None = None
    graphs: StepGraphs | None = None  # of the denoiser, on CUDA
    times: StepTimes = field(default_factory=StepTimes)
    clock: Callable[[], float] = time.monotonic
    requests: dict[str, Request] = field(default_factory=dict)
    _arrivals: int = 0
    _largest: int = 0  # loop so far, in bytes

    def add(self, job: Job, waited: float = 0.0, tag: float = 0.0) -> None:
        """Let a request in, which came `waited` seconds ago."""
        self._arrivals += 1
        request = Request(job, self._arrivals, self.clock() - waited, tag)
        self.requests[job.id] = request

    def turn(self) -> None:
        """The next turn. Does nothing where nobody waits."""
        self._let_go()
        batch = self._next()
        if not batch:
            return
        if not in_steps(batch[0].job):
            self._draw_whole(batch[0])
            return
        loops = [request for request in batch if self._begun(request)]
        alike = [request for request in loops if request.loop.shape == loops[0].loop.shape]  # type: ignore[union-attr]
        if alike:  # fewer than were chosen, where one could not begin: again a size that was proven
            self._advance(alike[: largest(self.sizes, len(alike))])

    # ---- whose turn it is

    def _let_go(self) -> None:
        for request in list(self.requests.values()):
            outcome = self.reports.outcome(request)
            if outcome != "waited for":
                self._forget(request)
                self.reports.left(request, outcome)

    def _forget(self, request: Request) -> None:
        del self.requests[request.job.id]
        if self.previews is not None:
            self.previews.close(request.job.id)

    def _next(self) -> list[Request]:
        candidates = list(self.requests.values())
        begun = [request for request in candidates if request.loop is not None]
        if begun and self._is_full(begun):
            candidates = begun  # the memory is full: no other is begun before one of these is done
        tasks = [self.task(request) for request in candidates]
        return [self.requests[task.id] for task in next_batch(tasks, self.policy, self.sizes)]

    def _is_full(self, begun: Iterable[Request]) -> bool:
        aside = sum(request.loop.size for request in begun if request.loop is not None)
        return aside + self._largest > self.memory_bytes

    def task(self, request: Request) -> Task:
        """A request as a policy sees it."""
        job = request.job
        return Task(
            id=job.id,
            number=request.number,
            arrived=request.arrived,
            seconds=self.times.left(request),
            deadline=math.inf if job.deadline is None else job.deadline,
            tag=request.tag,
            shape=self._shape(job),
            whole=self.times.whole(request.size, job.steps),
            longest=self.times.longest(self.most_steps),
        )

    def _shape(self, job: Job) -> Hashable:
        guidance = self.studio.default_guidance if job.guidance is None else job.guidance
        guided = (guidance or 0.0) > UNGUIDED
        return (job.width, job.height, guided) if in_steps(job) else job.id

    # ---- a turn

    def _begun(self, request: Request) -> bool:
        """Whether its loop is there; begins it where it is not."""
        if request.loop is not None:
            return True
        self._starts(request)
        studio = self.studio
        try:
            call = studio.arguments(studio.pipeline, [request.job])
            loop, stages = self._timed(lambda: begin(studio.pipeline, studio.template, call))
        except Exception as error:
            self._fail(request, error)
            return False
        request.loop = loop
        request.add(stages)
        self.times.learn("before", request.size, sum(stages.values()))
        self._largest = max(self._largest, loop.size)
        return True

    def _starts(self, request: Request) -> None:
        request.begun = self.clock()
        if self.previews is not None and request.job.previews:
            self.previews.open([request.job])
        self.reports.started(request)

    def _advance(self, requests: Sequence[Request]) -> None:
        """A step of all; where memory runs out, the graphs and what was cached are given back, and
        each takes its step alone."""
        try:
            self._step(requests)
            return
        except OutOfMemory as error:
            if len(requests) == 1 and not self._has_graphs:
                self._fail(requests[0], error)
                return
        except Exception as error:
            self._after_failure(requests, error)
            return
        self.drop_graphs("memory ran out")
        give_memory_back()  # outside of `except`, since the error holds what the step had
        for request in requests:
            self._advance([request])

    @property
    def _has_graphs(self) -> bool:
        return self.graphs is not None and bool(self.graphs.graphs)

    def drop_graphs(self, why: str) -> None:
        """Give their memory back; from now on each pass is launched kernel by kernel."""
        if self.graphs is not None:
            self.graphs.release(why)

    def _after_failure(self, requests: Sequence[Request], error: Exception) -> None:
        """One of them may be at fault: each tries alone."""
        if len(requests) == 1:
            self._fail(requests[0], error)
            return
        for request in requests:
            self._advance([request])

    def _step(self, requests: Sequence[Request]) -> None:
        loops = [request.loop for request in requests if request.loop is not None]
        begun = self.clock()
        self.studio.recorder.reset()
        with out_of_memory_explained():
            self.studio.clock.start()
            estimates = advance(self.studio.pipeline, loops, self.graphs)
            self.studio.clock.finish()
        self.studio.beat()
        seconds = self.clock() - begun
        for request, estimate in zip(requests, estimates, strict=True):
            request.add({DENOISE: seconds}, len(requests))
            self.times.learn("steps", request.size, seconds / len(requests))
            self._show(request, estimate)
        self.reports.stepped(requests)
        for request in requests:
            if request.loop is not None and request.loop.done:
                self._finish(request, request.loop)

    def _show(self, request: Request, estimate: Estimate) -> None:
        """The preview that is due after this step."""
        loop, job = request.loop, request.job
        if self.previews is None or loop is None:
            return
        if loop.step not in preview_steps(len(loop.timesteps), job.previews):
            return
        index = getattr(loop.scheduler, "step_index", None)
        inputs = SeenStep(loop.scheduler, *estimate, None if index is None else index - 1)
        self.previews.wish([job], loop.step, [inputs.row(0)])

    def _finish(self, request: Request, loop: Loop) -> None:
        try:
            result, stages = self._timed(lambda: finish(self.studio.pipeline, loop))
            pixels = as_pixels(result)[0]
        except Exception as error:
            self._fail(request, error)
            return
        request.add(stages)
        self.times.learn("after", request.size, sum(stages.values()))
        self._give(request, pixels)

    def _draw_whole(self, request: Request) -> None:
        self._starts(request)

        def still_waiting() -> list[Job]:
            outcome = self.reports.outcome(request)
            return [request.job] if outcome == "waited for" else []

        previews = self.previews if request.job.previews else None
        try:
            drawing = self.studio.draw([request.job], Watch([request.job], still_waiting, previews))
        except NobodyWaits:
            self._forget(request)
            self.reports.left(request, self.reports.outcome(request))
            return
        except Exception as error:
            self._fail(request, error)
            return
        finally:
            if self.graphs is not None:
                self.graphs.look()
        request.add(drawing.stages)
        self._give(request, drawing.pictures[0], drawing)

    def _give(self, request: Request, pixels: np.ndarray, drawing: Drawing | None = None) -> None:
        self._forget(request)
        compute = sum(request.stages.values())
        passed = self.clock() - (request.begun or 0.0)
        picture = StepPicture(
            pixels=pixels,
            stages=request.stages,
            compute_seconds=compute,
            own_seconds=request.own_seconds,
            aside_seconds=max(0.0, passed - compute),
            batch_size=request.batch_size,
            drawing=drawing,
        )
        self.reports.finished(request, picture)

    def _fail(self, request: Request, error: Exception) -> None:
        self._forget(request)
        self.reports.failed(request, error)

    def _timed(self, work: Callable[[], T]) -> tuple[T, dict[str, float]]:
        """What it gave, and its stages."""
        studio = self.studio
        studio.recorder.reset()
        with out_of_memory_explained():
            origin = studio.clock.start()
            result = work()
            end = studio.clock.finish()
        call = measured(tree(studio.recorder, studio.clock, origin), end.host - origin.host)
        studio.beat()
        return result, stages_of(call)


def in_steps(job: Job) -> bool:
    """Whether the loop understands this request; others are drawn whole."""
    return mode_of(job) == "text2img" and job.lora is None and not job.profile


def run_to_end(drawing: StepDrawing) -> None:
    """Turns until everybody is done."""
    while drawing.requests:
        drawing.turn()
