"""The engine around its worker: exactly one answer to every job, whatever the worker does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from serve_helpers import FAKE, events_of, job, names, running, until

from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    Final,
    JobFailed,
    NotReady,
    Preview,
    QueueFull,
    Refused,
    Started,
)
from scheduling import only_by_call, scheduled

SETTINGS = EngineSettings(queue_limit=8, max_batch=2)


def settings(**changes: object) -> EngineSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


def test_events_come_in_order() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            events = await events_of(engine, job(previews=2))
            assert names(events) == ["Started", "Preview", "Preview", "Final"]
            assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]
            assert engine.status.completed == 1
            assert engine.status.previews_sent == 2

    asyncio.run(check())


def test_nothing_is_taken_before_ready_and_after_the_drain() -> None:
    async def check() -> None:
        engine = Engine(scheduled(settings(model="mute")), command=FAKE)
        with pytest.raises(NotReady, match="stopped"):
            engine.submit(job())
        await engine.start()
        await until(lambda: engine.status.state == "warming")
        with pytest.raises(NotReady, match="warming"):
            engine.submit(job())
        await engine.drain(0.0)
        assert engine.status.state == "stopped"
        with pytest.raises(NotReady, match="stopped"):
            engine.submit(job())

    asyncio.run(check())


def test_off_the_list_is_snapped_or_refused() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            snapped = job(width=100, height=64, steps=14, off_list="snap")
            final = (await events_of(engine, snapped))[-1]
            assert isinstance(final, Final)
            assert (final.width, final.height, final.steps) == (96, 64, 10)
            with pytest.raises(Refused, match="64x64, 96x64"):
                engine.submit(job(width=100))
            with pytest.raises(Refused, match="picture"):
                engine.submit(job(image=b"x"))

    asyncio.run(check())


@only_by_call("at the step a batch is formed before each pass")
def test_alike_are_drawn_together_and_others_apart(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            held = job("first", prompt=f"hold {tmp_path / 'marker'}")
            answers = [asyncio.ensure_future(events_of(engine, held))]
            await until(lambda: engine.status.running == 1)
            for waiting in (job("a"), job("other", steps=20), job("b"), job("c")):
                answers.append(asyncio.ensure_future(events_of(engine, waiting)))
            await until(lambda: engine.status.queue_depth == 4)
            (tmp_path / "marker").touch()
            finals = [events[-1] for events in await asyncio.gather(*answers)]
            sizes = {final.id: final.batch_size for final in finals if isinstance(final, Final)}
            assert sizes == {"first": 1, "a": 2, "b": 2, "c": 1, "other": 1}

    asyncio.run(check())


@only_by_call("at the step a batch is formed before each pass")
def test_the_window_waits_for_company() -> None:
    async def check() -> None:
        async with running(settings(batch_window_seconds=60.0)) as engine:
            first = asyncio.ensure_future(events_of(engine, job("a")))
            await asyncio.sleep(0.05)
            assert engine.status.running == 0
            both = await asyncio.gather(first, events_of(engine, job("b")))
            assert [events[-1].batch_size for events in both if isinstance(events[-1], Final)] == [
                2,
                2,
            ]

    asyncio.run(check())


def test_a_full_queue_says_when_to_come_back() -> None:
    async def check() -> None:
        async with running(settings(queue_limit=2)) as engine:
            tickets = [engine.submit(job(f"j{index}", prompt="slow")) for index in range(3)]
            with pytest.raises(QueueFull) as raised:
                engine.submit(job("late"))
            assert raised.value.retry_after >= 1.0
            assert engine.status.rejected == 1
            answers = [[event async for event in ticket][-1] for ticket in tickets]
            assert all(isinstance(answer, Final) for answer in answers)

    asyncio.run(check())


def test_a_crash_is_retried_once(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            events = await events_of(engine, job(prompt=f"crash once {tmp_path / 'marker'}"))
            assert names(events) == ["Started", "Started", "Final"]
            status = engine.status
            assert (status.workers_restarted, status.retried, status.completed) == (1, 1, 1)
            assert "exit code -9" in status.alarms[0]

    asyncio.run(check())


def test_a_job_that_kills_two_workers_is_answered_and_its_companion_is_drawn() -> None:
    async def check() -> None:
        async with running(settings(batch_window_seconds=60.0)) as engine:
            guilty, innocent = await asyncio.gather(
                events_of(engine, job("guilty", prompt="crash")), events_of(engine, job("innocent"))
            )
            assert isinstance(guilty[-1], JobFailed)
            assert (guilty[-1].kind, guilty[-1].retryable) == ("crashed", False)
            assert isinstance(innocent[-1], Final)
            assert engine.status.workers_restarted == 2

    asyncio.run(check())


@pytest.mark.slow
def test_kill_minus_nine_again_and_again_leaves_nobody_unanswered() -> None:
    async def check() -> None:
        async with running(settings(queue_limit=64, deadline_seconds=None)) as engine:
            for round_ in range(4):
                answers = [
                    asyncio.ensure_future(
                        events_of(engine, job(f"{round_}-{index}", prompt="slow"))
                    )
                    for index in range(5)
                ]
                await until(lambda: engine.status.running > 0)
                pid = engine.status.worker_pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                for events in await asyncio.gather(*answers):
                    assert names(events).count("Final") == 1
                    assert not any(isinstance(event, JobFailed) for event in events)
                await until(lambda: engine.status.state == "ready")
            assert engine.status.workers_restarted == 4
            assert engine.status.completed == 20

    asyncio.run(check())


def test_workers_that_only_die_are_given_up() -> None:
    async def check() -> None:
        async with running(settings(model="dies", restart_limit=1)) as engine:
            assert engine.status.state == "failed"
            assert "2 workers died in a row" in engine.status.why
            with pytest.raises(NotReady):
                engine.submit(job())

    asyncio.run(check())


def test_what_was_ready_once_is_tried_again_and_the_reason_kept(tmp_path: Path) -> None:
    async def check() -> None:
        once = settings(model="breaks", recipe=str(tmp_path / "ready-once"), restart_limit=1)
        async with running(once) as engine:
            assert engine.status.state == "ready"
            engine.submit(job(prompt="crash"))
            await until(lambda: engine.status.state == "failed")
            assert engine.status.why == (
                "2 workers died in a row, the last before it was ready: the disk is gone"
            )
            assert "before it was ready: the disk is gone" in engine.status.alarms[-2]

    asyncio.run(check())


def test_a_model_that_cannot_be_served_is_said() -> None:
    async def check() -> None:
        async with running(settings(model="broken")) as engine:
            assert engine.status.state == "failed"
            assert engine.status.why == "no such model"

    asyncio.run(check())


def test_closing_cancels_in_the_queue_and_in_the_worker() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            running_job = engine.submit(job("running", prompt="hang"))
            waiting_job = engine.submit(job("waiting", steps=20))
            async for event in running_job:
                assert isinstance(event, Started)
                break
            await waiting_job.aclose()
            assert engine.status.queue_depth == 0
            await running_job.aclose()
            await running_job.aclose()  # a second time is nothing
            assert names(await events_of(engine, job("next")))[-1] == "Final"
            assert engine.status.cancelled == 2
            with pytest.raises(StopAsyncIteration):
                await running_job.__anext__()

    asyncio.run(check())


def deadlines_pass(engine: Engine) -> None:
    """The engine's clock is set forward, instead of waiting."""
    engine.clock = engine.queue.clock = lambda: time.monotonic() + 2000.0


def test_deadlines_end_a_job_in_the_queue_and_in_a_worker_that_hangs() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            later = time.monotonic() + 1000.0
            hung = asyncio.ensure_future(
                events_of(engine, job("hung", prompt="hang", deadline=later))
            )
            await until(lambda: engine.status.running == 1)
            queued = asyncio.ensure_future(events_of(engine, job("queued", deadline=later)))
            await until(lambda: engine.status.queue_depth == 1)
            deadlines_pass(engine)
            for answers in (queued, hung):
                answer = (await answers)[-1]
                assert isinstance(answer, JobFailed)
                assert answer.kind == "deadline"

    asyncio.run(check())


async def collect(engine: Engine, events: list[Event]) -> None:
    async for event in engine.submit(job(prompt="slow")):
        events.append(event)


def test_a_worker_that_is_stopped_is_ended_and_its_picture_drawn_by_the_next() -> None:
    """A real process and SIGSTOP; how long that may take is in test_serve_liveness.py."""

    async def check() -> None:
        async with running(SETTINGS) as engine:
            events: list[Event] = []
            held = asyncio.ensure_future(collect(engine, events))
            await until(lambda: names(events) == ["Started"])
            assert engine.status.worker_pid is not None
            os.kill(engine.status.worker_pid, signal.SIGSTOP)
            engine.look(11.0)
            assert engine.status.state == "starting"
            await held
            assert names(events) == ["Started", "Started", "Final"]
            assert engine.status.workers_hanging == engine.status.workers_restarted == 1
            assert "gave no sign of life for 11 s while drawing" in engine.status.alarms[0]

    asyncio.run(check())


def test_a_worker_that_answers_nothing_is_answered_for() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            answer = (await events_of(engine, job(prompt="broken")))[-1]
            assert isinstance(answer, JobFailed)
            assert (answer.kind, answer.retryable) == ("internal", True)

    asyncio.run(check())


def test_a_drain_finishes_what_was_accepted_and_cuts_off_at_its_timeout() -> None:
    async def check() -> None:
        engine = Engine(scheduled(SETTINGS), command=FAKE)
        await engine.start()
        await until(lambda: engine.status.state == "ready")
        answers = [
            asyncio.ensure_future(events_of(engine, job(f"j{index}", prompt="slow")))
            for index in range(3)
        ]
        await until(lambda: engine.status.running > 0)
        pid = engine.status.worker_pid
        assert pid is not None
        await engine.drain(60.0)
        assert [names(await events)[-1] for events in answers] == ["Final"] * 3
        assert not psutil.pid_exists(pid)

        engine = Engine(scheduled(SETTINGS), command=FAKE)
        await engine.start()
        await until(lambda: engine.status.state == "ready")
        hung = asyncio.ensure_future(events_of(engine, job(prompt="hang")))
        await until(lambda: engine.status.running > 0)
        await engine.drain(0.05)
        answer = (await hung)[-1]
        assert isinstance(answer, JobFailed)
        assert (answer.kind, answer.retryable) == ("draining", True)

    asyncio.run(check())


def test_a_recompile_is_counted_and_alarms() -> None:
    async def check() -> None:
        async with running(SETTINGS) as engine:
            await events_of(engine, job(prompt="recompile"))
            status = engine.status
            assert status.recompiles == 1
            assert "the size of x changed" in status.alarms[0]
            assert status.certificate is not None
            assert status.certificate.recompiles_after_ready[0].guard == "the size of x changed"

    asyncio.run(check())


def test_a_worker_whose_engine_is_gone_ends_itself() -> None:
    """The engine's process is killed, so nothing of it can tidy up."""
    script = (
        "import asyncio\n"
        "from serve_helpers import running, until\n"
        "from halftime.verbs.serve.messages import EngineSettings\n"
        "async def main():\n"
        "    async with running(EngineSettings()) as engine:\n"
        "        print(engine.status.worker_pid, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    end = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
