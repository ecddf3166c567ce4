"""A worker without torch that speaks the real protocol; a job's prompt says what happens to it.

'crash' kills the process in the middle, 'crash once FILE' only where FILE does not exist yet,
'hang' never ends, 'endless' neither, but has all its previews, 'hold FILE' ends when FILE exists,
'slow' takes a quarter of a second, 'broken' answers nothing at all, 'fail KIND' fails so,
'recompile' reports a recompile. All other prompts draw a colour.

A model named 'broken' cannot be served; 'breaks' can once; one named 'dies' dies while it loads;
'mute' never becomes ready; 'sticky' fails in every call once its process id stands in the recipe.
The script in the first argument says the rest.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from halftime.records.serve import Certificate, RecompileAfterReady
from halftime.verbs.serve.messages import Final, Job, JobFailed, Preview, Started
from halftime.verbs.serve.wire import (
    BatchDone,
    CannotServe,
    Channel,
    DrawTask,
    ModelLoaded,
    Ready,
    Recompiled,
    StepsTaken,
)

FAILURES = {
    "crashed": ("The worker died.", True),
    "deadline": ("The deadline passed.", False),
    "bad_request": ("The pipeline takes no such prompt.", False),
    "internal": ("ValueError in the pipeline.", False),
}


class Script(msgspec.Struct):
    """serve_fake.WorkerScript, without what that file imports."""

    certificate: Certificate
    step_seconds: float
    steps_file: str | None
    gate: str | None


def main() -> None:
    script = msgspec.json.decode(sys.argv[1], type=Script)
    channel = Channel.over_standard_streams()
    begin = channel.begin()
    assert begin is not None
    channel.listen()
    print("what a library prints must not reach the engine")  # noqa: T201
    model = begin.settings.model
    if model == "broken":
        channel.send(CannotServe(message="no such model"))
        return
    if model == "breaks":
        marker = Path(begin.settings.recipe or "")
        if marker.exists():
            channel.send(CannotServe(message="the disk is gone"))
            return
        marker.touch()
    if model == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    while script.gate is not None and not os.path.exists(script.gate):
        time.sleep(0.01)
    channel.send(ModelLoaded())
    while model == "mute":
        time.sleep(1)
    by_step = begin.settings.scheduling == "step"
    certificate = msgspec.structs.replace(script.certificate, scheduling=begin.settings.scheduling)
    channel.send(Ready(certificate=certificate, resident_bytes=2**20))

    def batch(task: DrawTask) -> Iterator[None]:
        if model == "sticky" and is_named_in(begin.settings.recipe):
            return fail_all(channel, task)
        return Batch(script, channel, task, by_step).turns()

    if by_step:
        in_turns(channel, batch)
    while True:
        exhaust(batch(channel.batches.get()))


def exhaust(turns: Iterator[None]) -> None:
    for _ in turns:
        pass


def in_turns(channel: Channel, batch: Callable[[DrawTask], Iterator[None]]) -> None:
    """Scheduled at the step: the next turn is that of the request with the fewest steps."""
    line = list[tuple[int, int, Iterator[None]]]()
    numbers = itertools.count()
    while True:
        tasks = [] if line else [channel.batches.get()]
        while not channel.batches.empty():
            tasks.append(channel.batches.get())
        for task in tasks:
            for job, waited in zip(task.jobs, task.waited, strict=True):
                turns = batch(DrawTask(jobs=(job,), waited=(waited,)))
                line.append((job.steps, next(numbers), turns))
        first = min(line)
        if next(first[-1], "over") == "over":
            line.remove(first)


def is_named_in(path: str | None) -> bool:
    file = Path(path or "")
    return file.is_file() and file.read_text() == str(os.getpid())


def fail_all(channel: Channel, task: DrawTask) -> Iterator[None]:
    text, retryable = FAILURES["internal"]
    for job in task.jobs:
        channel.send(JobFailed(id=job.id, kind="internal", message=text, retryable=retryable))
    channel.send(done(task))
    yield


def done(task: DrawTask) -> BatchDone:
    return BatchDone(resident_bytes=2**20, jobs=tuple(job.id for job in task.jobs))


class Batch:
    """What is drawn together; a turn is a step, or a look at what is waited for."""

    def __init__(self, script: Script, channel: Channel, task: DrawTask, by_step: bool) -> None:
        self.script, self.channel, self.task = script, channel, task
        self.by_step = by_step
        self.answered: set[str] = set()

    def turns(self) -> Iterator[None]:
        if self.by_step and self.channel.cancelled(self.task.jobs[0]):
            self.end()
            return
        size = len(self.task.jobs)
        for job, waited in zip(self.task.jobs, self.task.waited, strict=True):
            self.send(Started(id=job.id, queue_seconds=waited, batch_size=size))
        for job in self.task.jobs:
            yield from self.misbehave(job)
        begun = time.monotonic()
        for step in range(1, 1 + self.task.jobs[0].steps):
            self.step(step)
            yield
        for job in self.task.jobs:
            while job.prompt == "endless" and not self.channel.cancelled(job):
                time.sleep(0.01)
                yield
        seconds = time.monotonic() - begun
        for job, waited in zip(self.task.jobs, self.task.waited, strict=True):
            if job.prompt != "broken" and self.waiting(job):
                self.send(final(job, waited, seconds, size))
        self.end()

    def end(self) -> None:
        self.channel.forget(self.task.jobs)
        self.send(done(self.task))

    def send(self, message: object) -> None:
        self.channel.send(message)  # type: ignore[arg-type]

    def waiting(self, job: Job) -> bool:
        return job.id not in self.answered and not self.channel.cancelled(job)

    def step(self, step: int) -> None:
        jobs = [job for job in self.task.jobs if self.waiting(job)]
        if not jobs:
            return
        time.sleep(self.script.step_seconds)
        if self.by_step:
            self.send(StepsTaken(left={job.id: job.steps - step for job in jobs}))
        if self.script.steps_file is not None:
            with open(self.script.steps_file, "ab") as file:
                file.write(b"." * len(jobs))
        for job in jobs:
            if step in preview_steps(job):
                width, height, data = job.width, job.height, pixels(job, step)
                self.send(Preview(id=job.id, step=step, width=width, height=height, pixels=data))

    def misbehave(self, job: Job) -> Iterator[None]:
        word, _, argument = job.prompt.partition(" ")
        if word == "crash":
            marker = Path(argument.removeprefix("once ")) if argument else None
            if marker is None or not marker.exists():
                if marker is not None:
                    marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif word == "fail" and argument in FAILURES:
            text, retryable = FAILURES[argument]
            self.send(JobFailed(id=job.id, kind=argument, message=text, retryable=retryable))  # type: ignore[arg-type]
            self.answered.add(job.id)
        elif word == "recompile":
            graph = RecompileAfterReady(guard="the size of x changed", when="now")
            self.send(Recompiled(graphs=(graph,)))
        elif word == "slow":
            end = time.monotonic() + 0.25
            while time.monotonic() < end and not self.channel.cancelled(job):
                time.sleep(0.01)
                yield
        while word == "hold" and not (os.path.exists(argument) or self.channel.cancelled(job)):
            time.sleep(0.01)
            yield
        while word == "hang" and not self.channel.cancelled(job):
            time.sleep(0.01)
            yield


def preview_steps(job: Job) -> list[int]:
    """The steps after which a preview is sent, evenly spread, never after the last."""
    count = min(job.previews, job.steps - 1)
    return [round(job.steps * (index + 1) / (count + 1)) for index in range(count)]


def pixels(job: Job, step: int) -> bytes:
    """A colour that the seed decides and that becomes brighter with the steps."""
    colour = [(job.seed * 37 + 80 * channel) % 256 * step // job.steps for channel in range(3)]
    return bytes(colour) * (job.width * job.height)


def final(job: Job, waited: float, seconds: float, batch_size: int) -> Final:
    return Final(
        id=job.id,
        width=job.width,
        height=job.height,
        steps=job.steps,
        pixels=pixels(job, job.steps),
        stages={
            "encode_prompt": 0.1 * seconds,
            "denoise": 0.7 * seconds,
            "vae_decode": 0.2 * seconds,
        },
        queue_seconds=waited,
        compute_seconds=seconds,
        batch_size=batch_size,
        session=b'{"schema":1}' if job.profile else None,
    )


if __name__ == "__main__":
    sys.exit(main())
