"""An engine without a model: draws colours, one picture at a time, snapped as the real one snaps;
and a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import uvicorn

from halftime.base.listening import address_of, listening_socket
from halftime.http.server import STALLED_SECONDS
from halftime.records.serve import Certificate, ColdStartTimes, EngineStatus, Graphs, WarmEntry
from halftime.verbs.serve.app import application
from halftime.verbs.serve.listing import listed
from halftime.verbs.serve.messages import (
    Event,
    Failed,
    Final,
    Job,
    NotReady,
    Preview,
    QueueFull,
    Refused,
    Started,
)
from halftime.verbs.serve.service import HttpSettings, Service
from halftime.verbs.serve.ticket import Ticket

SIZES = ((64, 64), (96, 64))
STEPS = (4, 8, 12)
CERTIFICATE = Certificate(
    model="fake",
    pipeline="FakePipeline",
    sizes=SIZES,
    steps=STEPS,
    guidance=("guided",),
    previews=True,
    img2img=True,
    entries=(
        WarmEntry(
            width=64,
            height=64,
            batch=1,
            steps=4,
            guidance="guided",
            first_seconds=0.4,
            second_seconds=0.1,
        ),
    ),
    passes=2,
    graphs_first=Graphs(),
    cold_start=ColdStartTimes(loaded_seconds=0.2, ready_seconds=0.5),
)
ENDLESS = "endless"  # a prompt whose picture has all its previews and is never finished
# A prompt that is one of these fails so.
FAILURES: dict[str, Failed] = {
    "crash": Failed(id="", kind="crashed", message="The worker died.", retryable=True),
    "late": Failed(id="", kind="deadline", message="The deadline passed.", retryable=False),
    "bad": Failed(
        id="", kind="bad_request", message="The pipeline takes no such prompt.", retryable=False
    ),
    "broken": Failed(
        id="", kind="internal", message="ValueError in the pipeline.", retryable=False
    ),
}


@dataclass
class FakeEngine:
    """As halftime.verbs.serve.service.Engine. `step_seconds` is what a step takes, `warm_seconds`
    what the start takes."""

    step_seconds: float = 0.0
    warm_seconds: float = 0.0
    queue_limit: int = 64
    state: str = "starting"
    certificate: Certificate = CERTIFICATE
    jobs: list[Job] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    steps_done: int = 0
    _waiting: int = 0
    _open: list[_Events] = field(default_factory=list)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def status(self) -> EngineStatus:
        certificate = self.certificate if self.state != "starting" else None
        return EngineStatus(
            state=self.state,
            why=f"{self.state}.",
            certificate=certificate,
            queue_depth=self._waiting,
            running=int(self._lock.locked()),
            resident_bytes=2**20,
        )

    async def start(self) -> None:
        await asyncio.sleep(self.warm_seconds)
        self.state = "ready"

    async def drain(self, timeout: float) -> None:
        self.state = "draining"
        end = time.monotonic() + timeout
        while (self._waiting or self._lock.locked()) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for events in self._open:
            events.end(
                Failed(id="", kind="draining", message="The server is going away.", retryable=True)
            )
        self.state = "stopped"

    def submit(self, job: Job) -> AsyncIterator[Event]:
        if self.state != "ready":
            raise NotReady(f"the engine is {self.state}")
        if job.prompt == "refuse":
            raise Refused("refused by the engine")
        if self._waiting >= self.queue_limit:
            raise QueueFull("the queue is full", retry_after=1.4)
        self.jobs.append(job)
        self._waiting += 1
        events = _Events(self, listed(job, self.certificate, "snap"))
        self._open.append(events)
        return events


class _Events(Ticket):
    """One job's events. Drawing goes on whether they are read or not, until they are closed."""

    def __init__(self, engine: FakeEngine, job: Job) -> None:
        super().__init__(job.id, engine.cancelled.append)
        self._engine, self._job = engine, job
        self._waits = True
        self._drawing = asyncio.ensure_future(self._draw())
        # one cancelled before it ran at all, too
        self._drawing.add_done_callback(lambda _: self._leave_queue())

    async def aclose(self) -> None:
        if not self._drawing.done():
            self._engine.cancelled.append(self._job.id)
        self._drawing.cancel()

    def end(self, failed: Failed) -> None:
        """Give up, with this as the last event."""
        if not self._drawing.done():
            self._drawing.cancel()
            self.put(failed)

    async def _draw(self) -> None:
        engine, job = self._engine, self._job
        asked = time.monotonic()
        async with engine._lock:
            self._leave_queue()
            begun = time.monotonic()
            self.put(Started(id=job.id, queue_seconds=begun - asked, batch_size=1))
            self.put(FAILURES.get(job.prompt) or await self._picture(asked, begun))

    def _leave_queue(self) -> None:
        self._engine._waiting -= self._waits
        self._waits = False

    async def _picture(self, asked: float, begun: float) -> Final:
        engine, job, shown = self._engine, self._job, previews(self._job)
        for step in range(1, job.steps + 1):
            await asyncio.sleep(engine.step_seconds)
            engine.steps_done += 1
            if step in shown:
                self.put(
                    Preview(
                        id=job.id,
                        index=shown.index(step),
                        step=step,
                        width=job.width,
                        height=job.height,
                        pixels=pixels(job, step),
                    )
                )
        if job.prompt == ENDLESS:
            await asyncio.Event().wait()
        took = time.monotonic() - begun
        return Final(
            id=job.id,
            width=job.width,
            height=job.height,
            steps=job.steps,
            pixels=pixels(job, job.steps),
            stages={"encode_prompt": took * 0.1, "denoise": took * 0.7, "vae_decode": took * 0.2},
            queue_seconds=begun - asked,
            compute_seconds=took,
            batch_size=1,
            session=b'{"schema":1}' if job.profile else None,
        )


def previews(job: Job) -> list[int]:
    """The steps after which a preview is shown, evenly spread, never after the last."""
    count = min(job.previews, job.steps - 1)
    return [round(job.steps * (index + 1) / (count + 1)) for index in range(count)]


def pixels(job: Job, step: int) -> bytes:
    """A colour that the seed decides and that the steps bring out."""
    colour = [(job.seed * 37 + 80 * channel) % 256 * step // job.steps for channel in range(3)]
    return bytes(colour) * (job.width * job.height)


@dataclass
class Running:
    """A server under test, on a port of its own."""

    address: str
    engine: FakeEngine
    service: Service


@contextlib.contextmanager
def serving(
    engine: FakeEngine | None = None, ready: bool = True, **settings: object
) -> Iterator[Running]:
    """A real uvicorn on 127.0.0.1 in a thread; ended with the block."""
    engine = engine or FakeEngine()
    app = application(engine, HttpSettings(model="fake", **settings))
    taken = listening_socket("127.0.0.1", 0, stalled_seconds=STALLED_SECONDS)
    config = uvicorn.Config(
        app, ws="none", log_config=None, lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[taken]), daemon=True)
    thread.start()
    try:
        _wait(lambda: server.started and (engine.state == "ready" or not ready))
        yield Running(address_of(taken), engine, app.state.service)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def _wait(true: object, seconds: float = 10.0) -> None:
    """Until `true()`; polls, since the other side is another thread or process."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


wait_until = _wait
