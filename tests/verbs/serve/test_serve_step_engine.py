"""The engine where its worker schedules at the step: what it is sent, what is still in the queue,
and what happens to the rest when something ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fake_link import FakeLink, Fakes, good, settle
from serve_helpers import certificate, job

from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import Final, JobFailed, QueueFull, Started
from halftime.verbs.serve.wire import BatchDone, Cancel, ModelLoaded, Ready, StepsTaken

READY = Ready(certificate=certificate(scheduling="step", batch_sizes=(1,)), resident_bytes=1)


@asynccontextmanager
async def stepping(**changes: object) -> AsyncIterator[tuple[Engine, Fakes]]:
    """An engine whose workers are ready, and take requests as they come."""
    fakes = Fakes(ready=False)
    async with fakes.engine(scheduling="step", **changes) as engine:
        for link in fakes.links:
            link.say(ModelLoaded(), READY)
        await settle()
        yield engine, fakes


def sent(link: FakeLink) -> list[str]:
    return [one.id for task in link.tasks for one in task.jobs]


def start(link: FakeLink, name: str) -> None:
    link.say(Started(id=name, queue_seconds=0.0, batch_size=1))


def finish(link: FakeLink, name: str) -> None:
    link.say(good(job(name)), BatchDone(resident_bytes=1, jobs=(name,)))


def test_requests_are_sent_as_they_come_and_wait_until_their_turn() -> None:
    async def check() -> None:
        async with stepping() as (engine, fakes):
            (link,) = fakes.links
            long, short = engine.submit(job("long", steps=20)), engine.submit(job("short"))
            assert sent(link) == ["long", "short"]
            assert (engine.status.queue_depth, engine.status.running) == (1, 1)
            start(link, "long")
            start(link, "short")
            await settle()
            assert (engine.status.queue_depth, engine.status.running) == (0, 2)
            finish(link, "short")  # overtaken
            await settle()
            assert [type(event) async for event in short] == [Started, Final]
            assert engine.status.running == 1
            finish(link, "long")
            await settle()
            assert [type(event) async for event in long] == [Started, Final]
            assert engine.slots[0].phase == "idle"

    asyncio.run(check())


def test_who_leaves_before_its_turn_is_cancelled_in_the_worker() -> None:
    async def check() -> None:
        async with stepping() as (engine, fakes):
            (link,) = fakes.links
            events = engine.submit(job("a"))
            await events.aclose()
            assert Cancel(id="a") in link.received
            link.say(BatchDone(resident_bytes=1, jobs=("a",)))
            await settle()
            assert (engine.status.queue_depth, engine.slots[0].phase) == (0, "idle")

    asyncio.run(check())


def test_one_that_ends_takes_no_other_with_it() -> None:
    async def check() -> None:
        async with stepping() as (engine, fakes):
            (link,) = fakes.links
            engine.submit(job("a")), engine.submit(job("b"))
            start(link, "a")
            start(link, "b")
            failed = JobFailed(id="a", kind="internal", message="no", retryable=True)
            link.say(failed, BatchDone(resident_bytes=1, jobs=("a",)))
            await settle()
            assert engine.status.failed == 1
            assert list(engine.slots[0].running) == ["b"]

    asyncio.run(check())


def test_a_worker_that_dies_has_its_requests_tried_again_each_alone() -> None:
    async def check() -> None:
        async with stepping() as (engine, fakes):
            for name in "abc":
                engine.submit(job(name))
            start(fakes.links[0], "a")
            start(fakes.links[0], "b")
            await settle()
            fakes.links[0].die()
            await settle()
            link = fakes.links[1]
            link.say(ModelLoaded(), READY)
            await settle()
            assert sent(link) == ["a"]  # what a worker died over, and nobody beside it
            start(link, "a")
            finish(link, "a")
            await settle()
            assert sent(link) == ["a", "b"]
            start(link, "b")
            finish(link, "b")
            await settle()
            assert sent(link) == ["a", "b", "c"]

    asyncio.run(check())


def test_the_newcomer_is_told_by_when_it_could_be_done() -> None:
    async def check() -> None:
        async with stepping(policy="deadline") as (engine, fakes):
            now = fakes.clock.now
            engine.submit(job("a", steps=10, deadline=now + 1.5))
            with pytest.raises(QueueFull, match=r"could be done in 2\.0 s"):
                engine.submit(job("b", steps=10, deadline=now + 1.2))
            engine.submit(job("c", steps=10, deadline=now + 2.5))

    asyncio.run(check())


def test_steps_that_are_done_make_room() -> None:
    async def check() -> None:
        async with stepping(policy="deadline") as (engine, fakes):
            now, (link,) = fakes.clock.now, fakes.links
            engine.submit(job("a", steps=10, deadline=now + 1.5))
            start(link, "a")
            link.say(StepsTaken(left={"a": 2}))
            await settle()
            engine.submit(job("b", steps=10, deadline=now + 1.3))
            assert sent(link) == ["a", "b"]

    asyncio.run(check())


def test_several_workers_share_the_work() -> None:
    async def check() -> None:
        async with stepping(workers=2) as (engine, fakes):
            engine.submit(job("long", steps=20))
            engine.submit(job("short")), engine.submit(job("third"))
            assert [sent(link) for link in fakes.links] == [["long"], ["short", "third"]]

    asyncio.run(check())


def test_a_pipeline_that_cannot_is_served_by_the_call() -> None:
    async def check() -> None:
        fakes = Fakes(answer=good, cannot_step=True)
        async with fakes.engine(scheduling="step") as engine:
            events = engine.submit(job("a"))
            await settle()
            assert [type(event) async for event in events] == [Final]
            assert engine.status.queue_depth == 0

    asyncio.run(check())
