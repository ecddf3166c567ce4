"""The worker process: owns the pipeline, warms it, draws batch after batch, and watches dynamo and
the memory.

`python -m halftime.verbs.serve.worker`, started by the engine, which speaks with it over standard
input and output.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import BadWorkload, HalftimeError
from halftime.base.source import in_a_sentence
from halftime.records.serve import Certificate, ColdStartTimes
from halftime.verbs.serve.channel import Channel
from halftime.verbs.serve.messages import Failed, FailureKind, Final, Job, Started
from halftime.verbs.serve.wire import (
    BatchDone,
    Begin,
    Broken,
    Draw,
    Loaded,
    MemoryDropped,
    Ready,
    Recompiled,
    Warming,
)

if TYPE_CHECKING:
    from halftime.verbs.serve.preview import Previews


def main() -> int:
    """Serve until the engine closes the pipe. 0, or 1 where this pipeline cannot be loaded or
    warmed up."""
    channel = Channel.over_standard_streams()
    begin = channel.begin()
    if begin is None:
        return 0
    channel.listen()
    try:
        _Worker(channel, begin).run()
    # of a batch they are answers: this one comes from loading or from the warm-up
    except Exception as error:
        channel.send(
            Broken(message=str(error) if isinstance(error, HalftimeError) else in_a_sentence(error))
        )
        return 1
    return 0


@dataclass
class _Worker:
    channel: Channel
    begin: Begin

    def run(self) -> None:
        # Heavy imports come after the pipe is set up: what they print must not get into it.
        from halftime.verbs.serve.preview import Previews, Unpacker
        from halftime.verbs.serve.studio import open_studio
        from halftime.verbs.serve.watching import Dynamo, Memory

        self.studio = open_studio(self.begin.settings)
        if self.studio.artefacts is not None:
            self.channel.at_end = self.studio.artefacts.discard
        self.loaded_seconds = time.time() - self.begin.started
        self.channel.send(Loaded())
        self.previews = None
        if self.studio.tiny is not None:
            self.previews = Previews(
                self.studio.tiny, self.channel.send, Unpacker(self.studio.pipeline)
            )
            self.previews.start()
        self.memory = Memory(self.begin.settings.memory_growth_bytes)
        self.dynamo = Dynamo()
        self._warm()
        while True:
            self._batch(self.channel.batches.get())

    # ---- warm-up

    def _warm(self) -> None:
        from halftime.verbs.serve.warmup import certify

        def progress(what: str, done: int, total: int) -> None:
            self.channel.send(Warming(what=what, done=done, total=total))

        # Warm-up previews have no reader: only real ones go through the channel.
        certificate = certify(self.studio, self.begin.settings, self.previews, progress)
        if self.studio.artefacts is not None:
            self.studio.artefacts.save()
        self.channel.send(
            Ready(certificate=self._with_times(certificate), resident_bytes=self.memory.resident())
        )
        self.dynamo.look()

    def _with_times(self, certificate: Certificate) -> Certificate:
        kept = self.studio.artefacts
        times = ColdStartTimes(
            loaded_seconds=self.loaded_seconds,
            ready_seconds=time.time() - self.begin.started,
            artefacts=str(kept.path) if kept is not None and kept.fits else None,
        )
        return msgspec.structs.replace(certificate, cold_start=times)

    # ---- a batch

    def _batch(self, draw: Draw) -> None:
        from halftime.verbs.serve.stepping import NobodyWaits

        answers = Answers(self.channel, draw)
        for job, waited in zip(draw.jobs, draw.waited, strict=True):
            self.channel.send(Started(id=job.id, queue_seconds=waited, batch_size=len(draw.jobs)))
        try:
            self._draw(draw, answers)
        except NobodyWaits:
            pass
        except BadWorkload as error:
            answers.fail("bad_request", str(error), retryable=False)
        except Exception as error:
            _log(error)
            answers.fail(
                "internal", f"the pipeline failed: {type(error).__name__}.", retryable=True
            )
        finally:
            answers.close(self.previews)
        self._after(draw.jobs)

    def _draw(self, draw: Draw, answers: Answers) -> None:
        from halftime.verbs.serve.stepping import Watch

        previews = self.previews if any(job.previews for job in draw.jobs) else None
        if previews is not None:
            previews.open(draw.jobs)
        drawing = self.studio.draw(draw.jobs, Watch(draw.jobs, answers.still_wanted, previews))
        for position, (job, waited) in enumerate(zip(draw.jobs, draw.waited, strict=True)):
            if job not in answers.still_wanted():
                continue
            if previews is not None:
                previews.close(job.id)
            height, width = drawing.pictures.shape[1:3]
            final = Final(
                id=job.id,
                width=width,
                height=height,
                steps=job.steps,
                pixels=drawing.pictures[position].tobytes(),
                stages=drawing.stages,
                queue_seconds=waited,
                compute_seconds=drawing.seconds,
                batch_size=len(draw.jobs),
                session=self.studio.session(drawing, job) if job.profile else None,
            )
            answers.give(final)

    def _after(self, jobs: Sequence[Job]) -> None:
        """What is looked at between two batches."""
        found = self.dynamo.look(jobs[0].id)
        if found:
            self.channel.send(Recompiled(found=found))
        grown = self.memory.grew()
        compiled = self.memory.drop() if grown else False
        if grown:
            self.channel.send(MemoryDropped(message=grown, warms_again=compiled))
        self.channel.send(
            BatchDone(
                resident_bytes=self.memory.resident(),
                previews_dropped=self.previews.take_dropped() if self.previews is not None else 0,
                pauses=compiled,
            )
        )
        if compiled:
            self._warm()


@dataclass
class Answers:
    """Who of a batch is still waited for; each gets one answer."""

    channel: Channel
    draw: Draw
    answered: set[str] = field(default_factory=set)

    def still_wanted(self) -> list[Job]:
        """The jobs that somebody waits for; those whose deadline has passed are told so here."""
        wanted, now = [], time.time()
        for job in self.draw.jobs:
            if job.id in self.answered or self.channel.cancelled(job):
                continue
            if job.deadline is not None and now > job.deadline:
                self.give(_late(job))
            else:
                wanted.append(job)
        return wanted

    def give(self, answer: Final | Failed) -> None:
        """Send an answer."""
        self.answered.add(answer.id)
        self.channel.send(answer)

    def fail(self, kind: FailureKind, message: str, *, retryable: bool) -> None:
        """The same answer to all who still wait."""
        for job in self.still_wanted():
            self.give(Failed(id=job.id, kind=kind, message=message, retryable=retryable))

    def close(self, previews: Previews | None) -> None:
        """No previews of these any more."""
        for job in self.draw.jobs:
            if previews is not None:
                previews.close(job.id)
        self.channel.forget(self.draw.jobs)


def _log(error: Exception) -> None:
    """Where it happened and what kind it is; its message may quote a prompt."""
    print("".join(traceback.format_tb(error.__traceback__)), type(error).__name__, file=sys.stderr)  # noqa: T201


def _late(job: Job) -> Failed:
    return Failed(
        id=job.id,
        kind="deadline",
        message="the deadline passed while it was drawn.",
        retryable=True,
    )


if __name__ == "__main__":
    sys.exit(main())
