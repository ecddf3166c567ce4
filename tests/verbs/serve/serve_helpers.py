"""What the serve tests share: jobs, a certificate, an engine with a worker that has no torch, and
the end of it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from halftime.records.serve import Certificate, WarmEntry
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Event, Final, Job
from scheduling import scheduled
from serve_fake import WorkerScript


def job(name: str = "a", **changes: object) -> Job:
    values = {
        "id": name,
        "prompt": "a red apple",
        "width": 64,
        "height": 64,
        "steps": 10,
        "seed": 1,
        **changes,
    }
    return Job(**values)  # type: ignore[arg-type]


def final(job: Job, **changes: object) -> Final:
    """The last word on a job, of the size and steps that it asked for."""
    values = {
        "id": job.id,
        "width": job.width,
        "height": job.height,
        "steps": job.steps,
        "pixels": b"",
        "stages": {},
        "queue_seconds": 0.0,
        "compute_seconds": 0.1,
        "batch_size": 1,
        **changes,
    }
    return Final(**values)  # type: ignore[arg-type]


def certificate(**changes: object) -> Certificate:
    entry = WarmEntry(
        width=64,
        height=64,
        batch=1,
        steps=10,
        guidance="guided",
        first_seconds=2.0,
        second_seconds=1.0,
    )
    values: dict[str, object] = {
        "sizes": ((64, 64), (96, 64)),
        "steps": (10, 20),
        "guidance": ("guided", "unguided"),
        "batch_sizes": (1, 2),
        "entries": (entry,),
        **changes,
    }
    return Certificate(**values)  # type: ignore[arg-type]


START_SECONDS = 240.0  # a real worker imports torch and compiles, beside whatever else runs
FAKE = WorkerScript(certificate=certificate()).command


@asynccontextmanager
async def running(
    settings: EngineSettings, command: tuple[str, ...] = FAKE
) -> AsyncIterator[Engine]:
    """A ready engine; whatever happens, its worker is ended."""
    engine = Engine(scheduled(settings), command=command)
    await engine.start()
    try:
        await until(lambda: engine.status.state in ("ready", "failed"), START_SECONDS)
        yield engine
    finally:
        await engine.drain(0.0)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something to become true; a test that waits for ever is no test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


async def events_of(engine: Engine, requested: Job) -> list[Event]:
    """All events of one job, from first to last."""
    return [event async for event in engine.submit(requested)]


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]
