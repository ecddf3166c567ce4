"""A worker inside the test: the test says what it says, and looks at what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from serve_helpers import certificate, final

from halftime.records.serve import Scheduling
from halftime.testing import FakeClock
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Final, Job, JobFailed
from halftime.verbs.serve.wire import (
    BatchDone,
    DrawTask,
    FromWorker,
    ModelLoaded,
    Ready,
    ToWorker,
)
from scheduling import ready, scheduled

READY = Ready(certificate=certificate(), resident_bytes=2**20)
Answer = Callable[[Job], Final | JobFailed | None]


@dataclass
class FakeLink:
    """One worker; ready at once unless `ready` is False. `answer` answers each job, where set."""

    pid: int
    answer: Answer | None = None
    received: list[ToWorker] = field(default_factory=list)
    killed: bool = False
    scheduling: Scheduling = "call"
    _said: asyncio.Queue[FromWorker | Exception | None] = field(default_factory=asyncio.Queue)

    def say(self, *messages: FromWorker | Exception) -> None:
        for message in messages:
            own = ready(message, self.scheduling) if isinstance(message, Ready) else message
            self._said.put_nowait(own)

    def die(self) -> None:
        self._said.put_nowait(None)

    def send(self, message: ToWorker) -> None:
        self.received.append(message)
        if isinstance(message, DrawTask) and self.answer is not None:
            answers = [self.answer(job) for job in message.jobs]
            self.say(*(answer for answer in answers if answer is not None))
            jobs = tuple(job.id for job in message.jobs)
            self.say(BatchDone(resident_bytes=2**20, jobs=jobs))

    @property
    def tasks(self) -> list[DrawTask]:
        return [message for message in self.received if isinstance(message, DrawTask)]

    async def messages(self) -> AsyncIterator[FromWorker]:
        while (message := await self._said.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message

    async def wait(self) -> int:
        return -9 if self.killed else 0

    async def end(self) -> None:
        self.die()

    def kill(self) -> None:
        self.killed = True
        self.die()


@dataclass
class Fakes:
    """An engine, its clock, and all the workers that it ever had. They schedule as its settings
    say, unless they `cannot_step`."""

    answer: Answer | None = None
    cannot_step: bool = False
    ready: bool = True
    clock: FakeClock = field(default_factory=FakeClock)
    links: list[FakeLink] = field(default_factory=list)
    fails_to_start: list[OSError] = field(default_factory=list)

    async def spawn(self, settings: EngineSettings, number: int) -> FakeLink:
        if self.fails_to_start:
            raise self.fails_to_start.pop()
        link = FakeLink(len(self.links), self.answer)
        link.scheduling = "call" if self.cannot_step else settings.scheduling
        self.links.append(link)
        if self.ready:
            link.say(ModelLoaded(), READY)
        return link

    @asynccontextmanager
    async def engine(self, **changes: object) -> AsyncIterator[Engine]:
        settings = EngineSettings(**{"queue_limit": 8, "max_batch": 2, **changes})  # type: ignore[arg-type]
        engine = Engine(scheduled(settings), spawn=self.spawn, clock=lambda: self.clock.now)
        engine.queue.promises.chance = lambda: 0.0
        for slot in engine.slots:
            slot.sleep = no_pause
        await engine.start()
        await settle()
        try:
            yield engine
        finally:
            await engine.drain(0.0)


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def settle() -> None:
    """Until every task waits for something from outside."""
    for _ in range(50):
        await asyncio.sleep(0)


def good(job: Job) -> Final:
    return final(job, pixels=b"\x01\x02\x03")


def black(job: Job) -> Final:
    return msgspec.structs.replace(good(job), pixels=bytes(12))


def broken(job: Job) -> JobFailed:
    return JobFailed(id=job.id, kind="internal", message="CUDA error", retryable=True)
