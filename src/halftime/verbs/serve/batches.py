"""What the worker does: owns the pipeline, warms it, draws batch after batch, and between two of
them watches dynamo and the memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import torch

from halftime.base.errors import HalftimeError, OutOfMemory
from halftime.base.progress import Progress
from halftime.pipeline.device import device_of
from halftime.pipeline.load import kind_of
from halftime.records.serve import Certificate, ColdStartTimes
from halftime.verbs.serve.failure import LATE, Failure, failure_of
from halftime.verbs.serve.messages import (
    EngineSettings,
    Final,
    Job,
    JobFailed,
    Started,
    Stepped,
)
from halftime.verbs.serve.preview import Previews, Unpacker
from halftime.verbs.serve.step_proof import prove
from halftime.verbs.serve.step_worker import StepServing
from halftime.verbs.serve.stepping import NobodyWaits, Watch
from halftime.verbs.serve.streams import pictures_first
from halftime.verbs.serve.studio import open_studio
from halftime.verbs.serve.warmup import certify
from halftime.verbs.serve.watching import Dynamo, Memory, give_memory_back
from halftime.verbs.serve.wire import (
    BatchDone,
    Begin,
    Channel,
    DrawTask,
    MemoryDropped,
    ModelLoaded,
    Ready,
    Recompiled,
    Warming,
)

logger = logging.getLogger("halftime.serve")


def settings_of(begin: Begin) -> EngineSettings:
    """The settings of this worker among several: on several GPUs each takes one of its own, and on
    the CPU each its share of the cores."""
    settings = begin.settings
    if settings.workers < 2:
        return settings
    # Without a name it is the best device here, a card where there is one; where a function puts
    # its pipeline is left alone.
    is_best = settings.device is None and kind_of(settings.model) != "function"
    if (settings.device == "cuda" or is_best) and torch.cuda.device_count():
        own = begin.number % torch.cuda.device_count()
        return msgspec.structs.replace(settings, device=f"cuda:{own}")
    threads = settings.threads or max(1, torch.get_num_threads() // settings.workers)
    return msgspec.structs.replace(settings, threads=threads)


class Worker:
    """One pipeline behind a channel. Making it loads the pipeline."""

    def __init__(self, channel: Channel, begin: Begin) -> None:
        self.channel, self.begin = channel, begin
        self.studio = open_studio(settings_of(begin))
        self.studio.beat = channel.step
        if self.studio.artefacts is not None:
            channel.at_end = self.studio.artefacts.discard
        self.loaded_seconds = time.monotonic() - begin.started
        channel.send(ModelLoaded())
        self.previews: Previews | None = None
        if self.studio.tiny is not None:
            unpack = Unpacker(self.studio.pipeline)
            self.previews = Previews(self.studio.tiny, channel.send, unpack)
            self.previews.start()
        device = device_of(self.studio.pipeline)
        self.memory = Memory(begin.settings.memory_growth_bytes, device)
        self.dynamo = Dynamo()
        self.steps: StepServing | None = None  # where requests are scheduled at the step

    def run(self) -> None:
        """Warm up, then draw until the engine closes the pipe, which ends this process. Both in
        this thread: what torch captured in one thread is no use in another."""
        pictures_first(device_of(self.studio.pipeline))
        self._warm()
        while True:
            if self.steps is None:
                self._batch(self.channel.batches.get())
            else:
                self.steps.turn()

    # ---- warm-up

    def _warm(self) -> None:
        def progress(step: str, finished: int, total: int) -> None:
            self.channel.step()
            self.channel.send(Warming(step=step, finished=finished, total=total))

        # Warm-up previews have no reader: only real ones go through the channel.
        certificate = certify(self.studio, self.begin.settings, self.previews, progress)
        if self.begin.settings.scheduling == "step":
            certificate = self._schedule_at_the_step(certificate, progress)
        if self.studio.artefacts is not None:
            self.studio.artefacts.save()
        certificate = self._with_times(certificate)
        resident = self.memory.resident()
        self.channel.send(Ready(certificate=certificate, resident_bytes=resident))
        self.dynamo.look()

    def _schedule_at_the_step(self, certificate: Certificate, progress: Progress) -> Certificate:
        """Show that it can be done, and take requests so from now on; or say why not."""
        proof = prove(self.studio, certificate, progress)
        if self.steps is None and not proof.refusal:
            self.steps = StepServing.over(
                self.channel, self.studio, self.begin.settings, proof, self.previews, self._after
            )
        elif self.steps is not None:
            if proof.refusal:
                raise HalftimeError(f"scheduling at the step no longer works: {proof.refusal}")
            self.steps.drawing.graphs = proof.graphs
        return proof.certify(certificate)

    def _with_times(self, certificate: Certificate) -> Certificate:
        artefacts = self.studio.artefacts
        used = artefacts is not None and artefacts.fits
        times = ColdStartTimes(
            loaded_seconds=self.loaded_seconds,
            ready_seconds=time.monotonic() - self.begin.started,
            artefacts=str(artefacts.path) if artefacts is not None and used else None,
        )
        return msgspec.structs.replace(certificate, cold_start=times)

    # ---- a batch

    def _batch(self, task: DrawTask) -> None:
        answers = Answers(self.channel, task)
        for job, waited in zip(task.jobs, task.waited, strict=True):
            self.channel.send(Started(id=job.id, queue_seconds=waited, batch_size=len(task.jobs)))
        try:
            self._draw(task, answers)
        except NobodyWaits:
            pass
        except Exception as error:
            answers.fail(failure_of(error))
        finally:
            if self.previews is not None:
                for job in task.jobs:
                    self.previews.close(job.id)
            self.channel.forget(task.jobs)
        self._after(task.jobs)

    def _draw(self, task: DrawTask, answers: Answers) -> None:
        """All in one call; where memory runs out, what was cached is given back, and each picture
        is drawn alone."""
        try:
            self._draw_together(task, answers)
            return
        except OutOfMemory:
            if len(task.jobs) == 1:
                raise
        give_memory_back()  # outside of `except`, since the error holds what the call had
        for job, waited in zip(task.jobs, task.waited, strict=True):
            if job in answers.still_waiting():
                self._draw_together(DrawTask(jobs=(job,), waited=(waited,)), answers)

    def _draw_together(self, task: DrawTask, answers: Answers) -> None:
        def still_waiting() -> list[Job]:
            return [job for job in answers.still_waiting() if job in task.jobs]

        previews = self.previews if any(job.previews for job in task.jobs) else None
        if previews is not None:
            previews.open(task.jobs)

        def progress(step: int, steps: int) -> None:
            for job in task.jobs:
                if job.frames is not None:
                    self.channel.send(Stepped(id=job.id, step=step, steps=steps))

        watch = Watch(task.jobs, still_waiting, previews, progress=progress)
        drawing = self.studio.draw(task.jobs, watch)
        height, width = drawing.pictures.shape[-3:-1]
        for position, (job, waited) in enumerate(zip(task.jobs, task.waited, strict=True)):
            if job not in still_waiting():
                continue
            if previews is not None:
                previews.close(job.id)
            if self.studio.shadow is not None:
                self.studio.shadow.note(job, drawing.pictures[position])
            answers.give(
                Final(
                    id=job.id,
                    width=width,
                    height=height,
                    steps=job.steps,
                    frames=job.frames,
                    pixels=drawing.pictures[position].tobytes(),
                    stages=drawing.stages,
                    queue_seconds=waited,
                    compute_seconds=drawing.seconds,
                    batch_size=len(task.jobs),
                    session=self.studio.session(drawing, job) if job.profile else None,
                )
            )

    def _draw_again(self) -> None:
        """What is compared with the recipe's pictures."""
        if self.studio.shadow is None:
            return
        shadowed = self.studio.shadow.look(self.studio.draw_again)
        if shadowed is not None:
            self.channel.send(shadowed)

    def _after(self, jobs: Sequence[Job]) -> None:
        """What is looked at between two batches."""
        self._draw_again()
        graphs = self.dynamo.look(jobs[0].id)
        if graphs:
            self.channel.send(Recompiled(graphs=graphs))
        growth = self.memory.grew()
        if growth and self.steps is not None:
            self.steps.drawing.drop_graphs(growth)
        compiled = self.memory.drop() if growth else False
        if growth:
            self.channel.send(MemoryDropped(message=growth, warms_again=compiled))
        self.channel.send(
            BatchDone(
                resident_bytes=self.memory.resident(),
                jobs=tuple(job.id for job in jobs),
                previews_dropped=self.previews.take_dropped() if self.previews is not None else 0,
                pauses=compiled,
            )
        )
        if compiled:
            self._warm()


@dataclass
class Answers:
    """Who of a batch still waits; each gets one answer."""

    channel: Channel
    task: DrawTask
    answered: set[str] = field(default_factory=set)

    def still_waiting(self) -> list[Job]:
        """The jobs that somebody waits for; those whose deadline has passed are answered here."""
        waiting, now = [], time.monotonic()
        for job in self.task.jobs:
            if job.id in self.answered or self.channel.cancelled(job):
                continue
            if job.deadline is None or now <= job.deadline:
                waiting.append(job)
                continue
            self.give(JobFailed(id=job.id, **LATE._asdict()))
        return waiting

    def give(self, answer: Final | JobFailed) -> None:
        """Send an answer."""
        self.answered.add(answer.id)
        self.channel.send(answer)

    def fail(self, failure: Failure) -> None:
        """The same answer to all who still wait."""
        for job in self.still_waiting():
            self.give(JobFailed(id=job.id, **failure._asdict()))
