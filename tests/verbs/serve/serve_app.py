"""The whole application inside the test: the real engine, whose worker is an object here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from openai import OpenAI
from serve_helpers import final
from starlette.testclient import TestClient

from halftime.records.serve import Certificate
from halftime.verbs.serve.app import application
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    Final,
    Job,
    JobFailed,
    Preview,
    Started,
    Stepped,
)
from halftime.verbs.serve.service import HttpSettings
from halftime.verbs.serve.wire import BatchDone, DrawTask, FromWorker, ModelLoaded, Ready, ToWorker
from scheduling import ready, scheduled
from serve_fake import CERTIFICATE, wait_until


@dataclass
class DrawingLink:
    """A worker that draws: one colour a seed, with its previews. The prompt 'broken' fails, and a
    video of 'endless' stops half-way."""

    pid: int
    tasks: list[DrawTask] = field(default_factory=list)
    _said: asyncio.Queue[FromWorker | None] = field(default_factory=asyncio.Queue)

    def say(self, *messages: FromWorker | None) -> None:
        for message in messages:
            self._said.put_nowait(message)

    async def messages(self) -> AsyncIterator[FromWorker]:
        while (message := await self._said.get()) is not None:
            yield message

    async def wait(self) -> int:
        return 0

    async def end(self) -> None:
        self.say(None)

    def kill(self) -> None:
        self.say(None)

    def send(self, message: ToWorker) -> None:
        if not isinstance(message, DrawTask):
            return
        self.tasks.append(message)
        for job in message.jobs:
            self.say(*events_of(job))
        if not any(job.prompt == "endless" for job in message.jobs):
            self.end_batch()

    def end_batch(self) -> None:
        jobs = tuple(job.id for job in self.tasks[-1].jobs)
        self.say(BatchDone(resident_bytes=2**20, jobs=jobs))


def events_of(job: Job) -> list[Event]:
    started = Started(id=job.id, queue_seconds=0.0, batch_size=1)
    if job.prompt == "broken":
        text = "the pipeline failed."
        return [started, JobFailed(id=job.id, kind="bad_request", message=text, retryable=False)]
    steps = [
        Stepped(id=job.id, step=step + 1, steps=job.steps)
        for step in range(job.steps if job.frames else 0)
    ]
    previews = [
        Preview(id=job.id, step=step + 1, width=job.width, height=job.height, pixels=colour(job))
        for step in range(job.previews)
    ]
    if job.prompt == "endless":
        return [started, *steps[: len(steps) // 2]]
    return [started, *steps, *previews, _coloured(job)]


def _coloured(job: Job) -> Final:
    return final(job, pixels=colour(job), stages={"denoise": 0.1}, frames=job.frames)


def colour(job: Job) -> bytes:
    return bytes([job.seed % 251 + 1, 2, 3]) * (job.width * job.height * (job.frames or 1))


@dataclass
class InProcess:
    """The server; `http` calls it without a socket."""

    http: TestClient
    engine: Engine
    links: list[DrawingLink] = field(default_factory=list)

    @property
    def openai(self) -> OpenAI:
        """The official client."""
        return OpenAI(
            base_url="http://127.0.0.1:8000/v1", api_key="any", http_client=self.http, max_retries=0
        )

    @property
    def jobs(self) -> list[Job]:
        """What reached the worker."""
        return [job for link in self.links for task in link.tasks for job in task.jobs]


@contextmanager
def in_process(
    certificate: Certificate = CERTIFICATE, engine: EngineSettings | None = None, **settings: object
) -> Iterator[InProcess]:
    """A server that is ready. Nothing listens, and no process is started."""
    links: list[DrawingLink] = []

    async def spawn(settings: EngineSettings, number: int) -> DrawingLink:
        link = DrawingLink(number)
        links.append(link)
        warm = Ready(certificate=certificate, resident_bytes=2**20)
        link.say(ModelLoaded(), ready(warm, settings.scheduling))
        return link

    drawing = Engine(scheduled(engine or EngineSettings(max_batch=1)), spawn=spawn)
    app = application(drawing, HttpSettings(**{"model": "fake", **settings}))  # type: ignore[arg-type]
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        wait_until(lambda: drawing.status.state == "ready")
        yield InProcess(client, drawing, links)


def certificate_for(*sizes: tuple[int, int], **changes: object) -> Certificate:
    """A certificate that offers these sizes."""
    return msgspec.structs.replace(CERTIFICATE, sizes=sizes, **changes)
