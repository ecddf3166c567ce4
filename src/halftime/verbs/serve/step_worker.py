"""The worker in its second mode: takes requests as they come, a turn at a time, and answers each
by itself."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from halftime.verbs.serve.failure import LATE, Failure, failure_of
from halftime.verbs.serve.messages import (
    EngineSettings,
    Final,
    Job,
    JobFailed,
    Started,
)
from halftime.verbs.serve.preview import Previews
from halftime.verbs.serve.step_drawing import Outcome, Request, StepDrawing, StepPicture
from halftime.verbs.serve.step_proof import Proof
from halftime.verbs.serve.studio import Studio
from halftime.verbs.serve.wire import Channel, DrawTask, StepsTaken


@dataclass
class StepAnswers:
    """What happens to a request, as the engine is told it. `ended`: those answered or let go since
    the last look."""

    channel: Channel
    studio: Studio
    clock: Callable[[], float] = time.monotonic
    ended: list[Job] = field(default_factory=list)

    def outcome(self, request: Request) -> Outcome:
        if self.channel.cancelled(request.job):
            return "cancelled"
        due = request.job.deadline
        return "waited for" if due is None or self.clock() <= due else "late"

    def started(self, request: Request) -> None:
        waited = self.clock() - request.arrived
        self.channel.send(Started(id=request.job.id, queue_seconds=waited, batch_size=1))

    def stepped(self, requests: Sequence[Request]) -> None:
        left = {request.job.id: request.steps_left for request in requests}
        self.channel.send(StepsTaken(left=left))

    def finished(self, request: Request, picture: StepPicture) -> None:
        """The picture to its client, with what it cost."""
        height, width = picture.pixels.shape[:2]
        job, drawing = request.job, picture.drawing
        waited = (request.begun or request.arrived) - request.arrived
        profiled = job.profile and drawing is not None
        self._answer(
            Final(
                id=job.id,
                width=width,
                height=height,
                steps=job.steps,
                pixels=picture.pixels.tobytes(),
                stages=picture.stages,
                queue_seconds=waited + picture.aside_seconds,
                compute_seconds=picture.compute_seconds,
                own_seconds=picture.own_seconds,
                batch_size=picture.batch_size,
                session=self.studio.session(drawing, job) if profiled and drawing else None,
            ),
            job,
        )

    def failed(self, request: Request, error: Exception) -> None:
        """The fault to its client."""
        self._fail(request.job, failure_of(error))

    def left(self, request: Request, outcome: Outcome) -> None:
        if outcome == "late":
            self._fail(request.job, LATE)
        else:
            self.ended.append(request.job)

    def _fail(self, job: Job, failure: Failure) -> None:
        self._answer(JobFailed(id=job.id, **failure._asdict()), job)

    def _answer(self, answer: Final | JobFailed, job: Job) -> None:
        self.channel.send(answer)
        self.ended.append(job)


@dataclass
class StepServing:
    """A worker's requests in steps. `after` is what the worker looks at when one has ended."""

    channel: Channel
    drawing: StepDrawing
    answers: StepAnswers
    after: Callable[[Sequence[Job]], None]

    @classmethod
    def over(
        cls,
        channel: Channel,
        studio: Studio,
        settings: EngineSettings,
        proof: Proof,
        previews: Previews | None,
        after: Callable[[Sequence[Job]], None],
    ) -> StepServing:
        """Over a channel, for a pipeline that has shown that it can."""
        answers = StepAnswers(channel, studio)
        drawing = StepDrawing(
            studio=studio,
            reports=answers,
            policy=settings.policy,
            most_steps=max(settings.steps, default=1),
            sizes=proof.sizes,
            memory_bytes=settings.aside_bytes,
            previews=previews,
            times=proof.times,
            graphs=proof.graphs,
        )
        return cls(channel, drawing, answers, after)

    def turn(self) -> None:
        """Take what has come, waiting for it where there is nothing to do, and the next turn."""
        self._take()
        self.drawing.turn()
        ended, self.answers.ended = self.answers.ended, []
        for job in ended:
            self.channel.forget((job,))
            self.after([job])

    def _take(self) -> None:
        tasks = self.channel.batches
        if not self.drawing.requests:
            self._add(tasks.get())
        while True:
            try:
                self._add(tasks.get_nowait())
            except queue.Empty:
                return

    def _add(self, task: DrawTask) -> None:
        tags = task.tags or (0.0,) * len(task.jobs)
        for job, waited, tag in zip(task.jobs, task.waited, tags, strict=True):
            self.drawing.add(job, waited, tag)
