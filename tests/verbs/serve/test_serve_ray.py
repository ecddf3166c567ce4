"""Under Ray: another drawer where one dies. Ray itself is not needed; benchmarks.serve.ray runs
the real thing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from types import ModuleType

import msgspec
import pytest
from serve_helpers import certificate, final, job, names

from halftime.records.serve import EngineStatus
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    Job,
    JobFailed,
    NotReady,
    Preview,
    QueueFull,
    Started,
)
from halftime.verbs.serve.ray_serve import Cluster, Drawers


class ActorDied(Exception):
    """A stand-in for Ray's."""


@pytest.fixture(autouse=True)
def ray_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("ray.exceptions")
    vars(module).update(RayActorError=ActorDied, ActorUnavailableError=ActorDied)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", module)


class Handle:
    """Ray's handle of a deployment, by what is asked of it. `scripts`: what each drawer says before
    it dies or ends."""

    def __init__(self, *scripts: list[object]) -> None:
        self.scripts, self.asked, self.cancelled = list(scripts), 0, 0
        self.draw = self.status = self

    def options(self, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, *data: bytes) -> object:
        if not data:
            return self._status()
        self.asked += 1
        return Stream(self, self.scripts.pop(0), msgspec.msgpack.decode(data[0], type=Job))

    async def _status(self) -> bytes:
        return msgspec.json.encode(
            EngineStatus(state="ready", certificate=certificate(), seconds_per_picture=2.0)
        )


class Stream:
    def __init__(self, handle: Handle, script: list[object], requested: Job) -> None:
        self.handle, self.script, self.requested = handle, list(script), requested

    async def __anext__(self) -> bytes:
        if not self.script:
            raise StopAsyncIteration
        word = self.script.pop(0)
        if isinstance(word, Exception):
            raise word
        assert callable(word)
        return msgspec.msgpack.encode(word(self.requested))

    def cancel(self) -> None:
        self.handle.cancelled += 1


def started(requested: Job) -> Event:
    return Started(id=requested.id, queue_seconds=0.0, batch_size=1)


def preview(requested: Job) -> Event:
    return Preview(id=requested.id, index=0, step=1, width=1, height=1, pixels=b"rgb")


def with_drawers(
    handle: Handle, check: Callable[[Drawers], AsyncIterator[None]], **changes: object
) -> None:
    async def run() -> None:
        drawers = Drawers(handle, EngineSettings(**changes), 2)  # type: ignore[arg-type]
        with pytest.raises(NotReady):
            drawers.submit(job())
        await drawers.start()
        while drawers.status.state != "ready":
            await asyncio.sleep(0)
        await check(drawers)  # type: ignore[misc]
        await drawers.drain(0.0)

    asyncio.run(run())


def test_a_drawer_that_dies_is_replaced_in_mid_picture() -> None:
    handle = Handle([started, preview, ActorDied()], [started], [started, preview, final])

    async def check(drawers: Drawers) -> None:
        events = [event async for event in drawers.submit(job())]
        assert names(events) == ["Started", "Preview", "Started", "Started", "Preview", "Final"]
        assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]
        assert handle.asked == 3
        assert drawers.status.running == 0

    with_drawers(handle, check)  # type: ignore[arg-type]


def test_three_dead_drawers_are_an_answer() -> None:
    async def check(drawers: Drawers) -> None:
        answer = [event async for event in drawers.submit(job())][-1]
        assert isinstance(answer, JobFailed)
        assert (answer.kind, answer.retryable) == ("crashed", True)

    with_drawers(Handle(*[[ActorDied()]] * 3), check)  # type: ignore[arg-type]


def test_the_front_is_bounded_and_closing_cancels() -> None:
    handle = Handle(*[[started, final]] * 2)

    async def check(drawers: Drawers) -> None:
        streams = [drawers.submit(job(name)) for name in ("a", "b")]
        with pytest.raises(QueueFull) as raised:
            drawers.submit(job("c"))
        assert raised.value.retry_after >= 1.0
        await streams[0].__anext__()
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert handle.cancelled == 1  # the other had not been asked for yet
        assert drawers.status.running == 0

    with_drawers(handle, check, queue_limit=1)  # type: ignore[arg-type]


def test_a_config_file_is_read_strictly() -> None:
    cluster = msgspec.convert({"replicas": 2, "engine": {"steps": [10], "threads": 1}}, Cluster)
    assert cluster.engine.steps == (10,)
    with pytest.raises(msgspec.ValidationError, match="replica"):
        msgspec.convert({"replica": 2}, Cluster)
