"""A server under test: the real engine around a stand-in worker, behind a real uvicorn."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import uvicorn

from halftime.base.listening import address_of, listening_socket
from halftime.http.protocol import ConnectionLimits
from halftime.http.server import STALLED_SECONDS, configuration
from halftime.records.serve import Certificate, ColdStartTimes, Graphs, WarmEntry
from halftime.verbs.serve.app import application
from halftime.verbs.serve.engine import Engine, JobEvents
from halftime.verbs.serve.messages import EngineSettings, Job, Refused
from halftime.verbs.serve.service import HttpSettings, Service
from scheduling import scheduled

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
# No answer takes long by itself, but the machine may be busy; a kept connection may be stale.
http = httpx2.Client(timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))


class WorkerScript(msgspec.Struct, kw_only=True, frozen=True):
    """How a stand-in worker behaves, beside what the prompts say."""

    certificate: Certificate = CERTIFICATE
    step_seconds: float = 0.0
    steps_file: str | None = None  # grows by a byte a step
    gate: str | None = None  # the worker is ready once this file exists

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of such a worker."""
        worker = Path(__file__).parent / "verbs" / "serve" / "fake_worker.py"
        return (sys.executable, str(worker), msgspec.json.encode(self).decode())


class RecordingEngine(Engine):
    """The real engine with a stand-in worker. `jobs` are those that it accepted; 'refuse' it never
    does."""

    def __init__(self, script: WorkerScript, queue_limit: int = 64) -> None:
        settings = EngineSettings(queue_limit=queue_limit, max_batch=1)
        super().__init__(scheduled(settings), command=script.command)
        self.jobs: list[Job] = []
        self.script = script

    def submit_all(self, jobs: Sequence[Job]) -> list[JobEvents]:
        if any(job.prompt == "refuse" for job in jobs):
            raise Refused("refused by the engine")
        events = super().submit_all(jobs)
        self.jobs += jobs
        return events

    @property
    def steps_drawn(self) -> int:
        assert self.script.steps_file is not None
        return Path(self.script.steps_file).stat().st_size


@dataclass
class Running:
    """A server under test, on its own port."""

    address: str
    engine: RecordingEngine
    service: Service
    release: Callable[[], None] = field(repr=False)  # where `ready` was False: now it may be

    def metrics(self) -> str:
        return http.get(self.address + "/metrics").text


@contextlib.contextmanager
def serving(
    *,
    step_seconds: float = 0.0,
    queue_limit: int = 64,
    certificate: Certificate = CERTIFICATE,
    ready: bool = True,
    limits: ConnectionLimits | None = None,
    **settings: object,
) -> Iterator[Running]:
    """A real uvicorn on 127.0.0.1 in a thread; ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        gate, steps_file = Path(folder, "gate"), Path(folder, "steps")
        steps_file.touch()
        script = WorkerScript(
            certificate=certificate,
            step_seconds=step_seconds,
            steps_file=str(steps_file),
            gate=None if ready else str(gate),
        )
        engine = RecordingEngine(script, queue_limit)
        app = application(engine, HttpSettings(model="fake", **settings))  # type: ignore[arg-type]
        with _listening(app, limits) as address:
            if ready:
                wait_until(lambda: engine.status.state == "ready")
            yield Running(address, engine, app.state.service, gate.touch)


@contextlib.contextmanager
def _listening(app: object, limits: ConnectionLimits | None = None) -> Iterator[str]:
    listener = listening_socket("127.0.0.1", 0, stalled_seconds=STALLED_SECONDS)
    server = uvicorn.Server(configuration(app, limits))  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until `condition()`; polls, since the other side is another thread or process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
