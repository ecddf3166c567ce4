"""Workers that fail softly: each kind is noticed, and ends in a worker that draws; by the call and
at the step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from fake_link import READY, Fakes, black, broken, good, settle
from serve_helpers import events_of, job, names

from halftime.cli.serve import new_alarms
from halftime.records.serve import ColdStartTimes
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import Final, Job, JobFailed, NotReady
from halftime.verbs.serve.slot import TEST_PICTURE
from halftime.verbs.serve.wire import BatchDone, Beat, MemoryDropped, ModelLoaded, Ready, Warming
from scheduling import both_ways

pytestmark = both_ways


def with_engine(
    fakes: Fakes, check: Callable[[Engine], Awaitable[None]], **changes: object
) -> None:
    async def run() -> None:
        async with fakes.engine(**changes) as engine:
            await check(engine)

    asyncio.run(run())


@pytest.mark.parametrize("answer", [broken, black, lambda _: None], ids=["raises", "black", "mute"])
def test_a_worker_that_only_fails_is_tested_and_replaced(
    answer: Callable[[Job], Final | JobFailed | None],
) -> None:
    fakes = Fakes(answer)

    async def check(engine: Engine) -> None:
        for number in range(2):
            await events_of(engine, job(str(number)))
            assert engine.status.state == "ready"
        fakes.answer = good  # of the next worker
        await events_of(engine, job("third", width=96, steps=20))
        await settle()
        (sample,) = fakes.links[0].tasks[-1].jobs
        assert (sample.id, sample.width, sample.steps) == (TEST_PICTURE, 96, 20)
        assert fakes.links[0].killed
        status = engine.status
        assert (status.state, status.workers_failing, status.workers_restarted) == ("ready", 1, 1)
        assert "3 batches in a row failed or were black, and so did a test pic" in status.alarms[0]
        assert names(await events_of(engine, job("next")))[-1] == "Final"

    with_engine(fakes, check)


def test_it_is_not_ready_while_it_is_tested_and_until_it_is_replaced() -> None:
    fakes = Fakes()
    states: list[str] = []

    async def check(engine: Engine) -> None:
        def failing(drawn: Job) -> JobFailed:
            states.append(engine.status.state)
            return broken(drawn)

        fakes.links[0].answer = failing
        for number in range(3):
            await events_of(engine, job(str(number)))
        fakes.ready = False
        await settle()
        assert states == ["ready", "ready", "ready", "warming"]
        assert engine.status.state == "starting"
        fakes.links[1].say(ModelLoaded(), READY)
        await settle()
        assert engine.status.state == "ready"

    with_engine(fakes, check)


def test_requests_that_fail_do_not_cost_a_worker_that_draws() -> None:
    def answer(drawn: Job) -> Final | JobFailed:
        return broken(drawn) if drawn.prompt == "poison" else good(drawn)

    fakes = Fakes(answer)

    async def check(engine: Engine) -> None:
        for number in range(3):
            await events_of(engine, job(str(number), prompt="poison"))
        await settle()
        assert len(fakes.links) == 1
        assert engine.status.state == "ready"
        assert "look at the requests" in engine.status.alarms[0]
        assert engine.status.workers_failing == 0
        for number in range(6):  # and failures that are not in a row are no reason at all
            await events_of(engine, job(str(number), prompt="poison" if number % 2 else "fine"))
        assert len(engine.status.alarms) == 1

    with_engine(fakes, check)


@pytest.mark.parametrize("kind", ["bad_request", "deadline", "cancelled"])
def test_what_clients_did_is_no_failure_of_the_worker(kind: str) -> None:
    def answer(drawn: Job) -> JobFailed:
        return JobFailed(id=drawn.id, kind=kind, message="", retryable=False)  # type: ignore[arg-type]

    async def check(engine: Engine) -> None:
        for number in range(7):
            await events_of(engine, job(str(number)))
        await settle()
        assert engine.status.state == "ready"
        assert not engine.status.alarms

    with_engine(Fakes(answer), check)


def test_workers_that_come_back_black_for_ever_are_given_up() -> None:
    async def check(engine: Engine) -> None:
        number = 0
        while engine.status.state == "ready":
            await events_of(engine, job(str(number)))
            await settle()
            number += 1
        assert engine.status.state == "failed"
        assert number == 3 * 3
        assert engine.status.black == 3 * 3 + 3

    with_engine(Fakes(black), check, restart_limit=2)


def test_giving_memory_back_may_take_as_long_as_a_warm_up() -> None:
    """With beats and steps it is alive, however long; what waits is drawn afterwards."""
    fakes = Fakes()

    async def check(engine: Engine) -> None:
        worker = fakes.links[0]
        first = engine.submit(job("first"))
        second = engine.submit(job("second", steps=20))
        worker.say(good(job("first")), MemoryDropped(message="it grew", warms_again=True))
        worker.say(BatchDone(resident_bytes=1, pauses=True))
        assert names([event async for event in first]) == ["Final"]
        await settle()
        assert engine.status.state == "warming"
        for number in range(400):  # a hundred seconds
            worker.say(Beat(steps=number, cpu_seconds=number))
            if number % 50 == 0:
                worker.say(Warming(step="pass 1", finished=number // 50, total=8))
            await settle()
            engine.look(0.25)
        assert not worker.killed
        worker.say(READY, good(job("second", steps=20)), BatchDone(resident_bytes=1))
        assert names([event async for event in second]) == ["Final"]
        assert engine.status.workers_restarted == 0
        assert engine.status.memory_drops == 1

    with_engine(fakes, check)


@pytest.mark.parametrize("phase", ["loading", "warming", "idle", "drawing"])
def test_a_frozen_worker_is_replaced_in_every_phase_of_its_life(phase: str) -> None:
    fakes = Fakes(ready=phase in ("idle", "drawing"))

    async def check(engine: Engine) -> None:
        worker = fakes.links[0]
        if phase == "warming":
            worker.say(ModelLoaded())
        if phase == "drawing":
            engine.submit(job())
        await settle()
        for _ in range(9):
            engine.look(1.0)
        assert not worker.killed
        for _ in range(52):
            engine.look(1.0)
        assert worker.killed
        assert engine.status.state == "starting"
        await settle()
        assert len(fakes.links) == 2
        assert f"while {phase}; it was ended" in engine.status.alarms[0]
        if phase == "drawing":  # its picture is drawn by the next one
            assert [task.jobs[0].id for task in fakes.links[1].tasks] == ["a"]

    with_engine(fakes, check)


def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    fakes = Fakes(good)

    async def check(engine: Engine) -> None:
        fakes.links[0].die()
        await settle()
        assert engine.status.workers_restarted == 1
        assert names(await events_of(engine, job()))[-1] == "Final"

    with_engine(fakes, check)


def test_a_process_that_cannot_be_started_is_tried_again() -> None:
    fakes = Fakes(good, fails_to_start=[OSError("no more processes"), OSError("none")])

    async def check(engine: Engine) -> None:
        await settle()
        assert engine.status.state == "ready"
        assert "before it had begun: no more processes" in engine.status.alarms[1]

    with_engine(fakes, check)


def test_two_workers_draw_at_once_and_one_draws_on_while_the_other_starts() -> None:
    fakes = Fakes()

    async def check(engine: Engine) -> None:
        first, second = fakes.links
        for name in ("a", "b"):
            engine.submit(job(name))
        assert [len(link.tasks) for link in fakes.links] == [1, 1]
        fakes.ready = False
        first.die()
        await settle()
        assert engine.status.state == "ready"
        assert [worker.state for worker in engine.status.workers] == ["starting", "ready"]
        second.answer = good
        second.say(good(job("b")), BatchDone(resident_bytes=1))
        await settle()
        assert [task.jobs[0].id for task in second.tasks] == ["b", "a"]
        assert names(await events_of(engine, job("next")))[-1] == "Final"
        second.die()
        await settle()
        assert engine.status.state == "starting"

    with_engine(fakes, check, workers=2)


async def kill(engine: Engine, number: int) -> None:
    worker = engine.slots[number].worker
    assert worker is not None
    worker.kill()
    await settle()


def test_a_slot_that_is_given_up_leaves_the_other_at_work() -> None:
    async def check(engine: Engine) -> None:
        for _ in range(2):
            await kill(engine, 0)
        assert [worker.state for worker in engine.status.workers] == ["failed", "ready"]
        assert engine.status.state == "ready"
        assert names(await events_of(engine, job()))[-1] == "Final"
        for _ in range(2):
            await kill(engine, 1)
        assert engine.status.state == "failed"

    with_engine(Fakes(good), check, workers=2, restart_limit=1)


def test_what_nobody_understands_ends_the_worker_and_not_the_server() -> None:
    fakes = Fakes(good)

    async def check(engine: Engine) -> None:
        fakes.links[0].say(ValueError("a frame of 4294967295 bytes"))
        await settle()
        assert fakes.links[0].killed
        assert engine.status.state == "ready"
        assert "said what nobody understands (ValueError)" in engine.status.alarms[0]

    with_engine(fakes, check)


def test_alarms_are_told_on_when_there_were_more_than_are_held() -> None:
    async def check(engine: Engine) -> None:
        for number in range(30):
            engine.alarm(str(number))
        status = engine.status
        assert status.alarm_count == 30
        assert new_alarms(status, 28) == ("28", "29")
        assert new_alarms(status, 30) == ()
        assert len(new_alarms(status, 0)) == len(status.alarms) < 30

    with_engine(Fakes(), check)


def test_who_asks_too_early_is_told_when_a_start_will_be_over() -> None:
    fakes = Fakes()
    cold = ColdStartTimes(loaded_seconds=3.0, ready_seconds=20.0)
    certificate = msgspec.structs.replace(READY.certificate, cold_start=cold)

    async def check(engine: Engine) -> None:
        fakes.links[0].say(Ready(certificate=certificate, resident_bytes=1))
        fakes.ready = False
        fakes.links[0].die()
        await settle()
        for elapsed, left in ((0.0, 20.0), (15.0, 5.0), (30.0, 1.0)):
            fakes.clock.now = elapsed
            with pytest.raises(NotReady) as raised:
                engine.submit(job())
            assert raised.value.ready_in == pytest.approx(left)

    with_engine(fakes, check)


def test_a_fault_of_the_engine_itself_ends_the_server() -> None:
    """The process then ends with exit code 2, instead of being there with nobody at work."""

    async def check(engine: Engine) -> None:
        def broken_look(seconds: float) -> None:
            raise ZeroDivisionError

        engine._keep(_calls(broken_look))
        await settle()
        assert engine.status.state == "failed"
        assert "the engine itself failed (ZeroDivisionError)" in engine.status.alarms[-1]

    with_engine(Fakes(), check)


async def _calls(function: Callable[[float], None]) -> None:
    function(0.0)
