"""Under Ray: another drawer where one dies. Ray itself is not needed; benchmarks.serve.ray runs
the real thing."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
from fake_link import Fakes, good, no_pause, settle
from hypothesis import given, settings, strategies
from serve_helpers import certificate, final, job, names

from halftime.base.errors import BadInput
from halftime.records.serve import EngineStatus, WorkerStatus
from halftime.testing import FakeClock
from halftime.verbs.serve.draw import failure
from halftime.verbs.serve.many_engines import ManyEngines
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    Job,
    JobFailed,
    NotReady,
    Preview,
    QueueFull,
    Refused,
    Started,
)
from halftime.verbs.serve.ray_drawers import Drawers, NotTaken
from halftime.verbs.serve.ray_resources import Need, check_resources, need_of
from halftime.verbs.serve.ray_serve import (
    Board,
    Cluster,
    app_name,
    drawer_options,
    http_settings,
    refusal_of,
    scaling_of,
    with_environment,
    words_of,
)


class ActorDied(Exception):
    """A stand-in for Ray's."""


@pytest.fixture(autouse=True)
def ray_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.exceptions", "ray.serve", "ray.serve.exceptions"):
        module = ModuleType(name)
        vars(module).update(RayError=ActorDied, RayServeException=ActorDied)
        monkeypatch.setitem(sys.modules, name, module)


class Handles:
    """Ray's handles of the two deployments, by what is asked of them. `scripts`: what the drawers
    say, one after another, before each dies or ends; `reports`: what stands on the board."""

    def __init__(self, *scripts: list[object]) -> None:
        self.scripts, self.avoided, self.cancelled = list(scripts), list[list[str]](), 0
        self.reports = {"one": ready_status(), "two": ready_status()}
        self.draw = self.read = self

    @property
    def asked(self) -> int:
        return len(self.avoided)

    def options(self, stream: bool) -> Handles:
        assert stream
        return self

    def remote(self, *data: bytes, avoid: Sequence[str] = ()) -> object:
        if not data:
            return self._read()
        self.avoided.append(list(avoid))
        return Stream(self, self.scripts.pop(0), msgspec.msgpack.decode(data[0], type=Job))

    async def _read(self) -> bytes:
        return msgspec.msgpack.encode(self.reports)


def ready_status(**changes: object) -> EngineStatus:
    values = {"state": "ready", "certificate": certificate(), "seconds_per_picture": 2.0, **changes}
    return EngineStatus(**values)  # type: ignore[arg-type]


class Stream:
    def __init__(self, handles: Handles, script: list[object], requested: Job) -> None:
        self.handles, self.script, self.requested = handles, list(script), requested

    async def __anext__(self) -> bytes:
        if not self.script:
            raise StopAsyncIteration
        word = self.script.pop(0)
        if isinstance(word, Exception):
            raise word
        if word == "hang":
            await asyncio.Event().wait()
        assert callable(word)
        return msgspec.msgpack.encode(word(self.requested))

    def cancel(self) -> None:
        self.handles.cancelled += 1


def refuses(replica: str, kind: str = "not_ready", again: float | None = 3.0) -> object:
    return lambda requested: NotTaken(
        id=requested.id,
        replica=replica,
        kind=kind,  # type: ignore[arg-type]
        message=f"{replica} is {kind}.",
        again=again,
    )


def started(requested: Job) -> Event:
    return Started(id=requested.id, queue_seconds=0.0, batch_size=1)


def preview(requested: Job) -> Event:
    return Preview(id=requested.id, index=0, step=1, width=1, height=1, pixels=b"rgb")


def with_drawers(
    handles: Handles, check: Callable[[Drawers], Coroutine[None, None, None]], **changes: object
) -> None:
    async def run() -> None:
        drawers = Drawers(handles, handles, EngineSettings(**changes), sleep=no_pause)  # type: ignore[arg-type]
        with pytest.raises(NotReady):
            drawers.submit(job())
        await drawers.start()
        while drawers.status.state != "ready":
            await asyncio.sleep(0)
        await check(drawers)
        await drawers.drain(0.0)

    asyncio.run(run())


async def events_of(drawers: Drawers, **changes: object) -> list[Event]:
    return [event async for event in drawers.submit(job(**changes))]


def test_a_drawer_that_dies_is_replaced_in_mid_picture() -> None:
    handles = Handles([started, preview, ActorDied()], [started], [started, preview, final])

    async def check(drawers: Drawers) -> None:
        events = await events_of(drawers)
        assert names(events) == ["Started", "Preview", "Started", "Started", "Preview", "Final"]
        assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]
        assert handles.asked == 3

    with_drawers(handles, check)


def test_three_dead_drawers_are_an_answer() -> None:
    async def check(drawers: Drawers) -> None:
        answer = (await events_of(drawers))[-1]
        assert isinstance(answer, JobFailed)
        assert (answer.kind, answer.retryable) == ("crashed", True)

    with_drawers(Handles(*[[ActorDied()]] * 3), check)


@pytest.mark.parametrize("kind", ["not_ready", "queue_full"])
def test_where_one_refuses_another_is_asked(kind: str) -> None:
    """3 of 36 got 503 although another drawer lived."""
    handles = Handles([refuses("one", kind)], [started, final])

    async def check(drawers: Drawers) -> None:
        assert names(await events_of(drawers)) == ["Started", "Final"]
        assert handles.avoided == [[], ["one"]]

    with_drawers(handles, check)


def test_what_a_drawer_gives_back_when_its_worker_died_is_drawn_by_another() -> None:
    """Two of 40 waited for the dead worker's successor until their deadline."""
    handles = Handles([started, preview, refuses("one")], [started, preview, final])

    async def check(drawers: Drawers) -> None:
        events = await events_of(drawers)
        assert names(events) == ["Started", "Preview", "Started", "Preview", "Final"]
        assert handles.avoided == [[], ["one"]]

    with_drawers(handles, check)


def test_a_picture_over_which_workers_die_is_given_up() -> None:
    handles = Handles(*[[started, refuses(name)] for name in ("one", "two", "one")])

    async def check(drawers: Drawers) -> None:
        answer = (await events_of(drawers))[-1]
        assert isinstance(answer, JobFailed)
        assert answer.kind == "crashed"

    with_drawers(handles, check)


def test_a_drawer_gives_back_what_waits_for_a_worker_that_is_gone() -> None:
    async def run() -> None:
        fakes = Fakes()
        async with fakes.engine(max_retries=1) as engine:
            words = words_of(engine, job(), "one", look=0.001)
            fakes.ready = False
            fakes.links[-1].die()
            rest = [word async for word in words]
            assert isinstance(rest[-1], NotTaken)
            assert (rest[-1].kind, rest[-1].replica) == ("not_ready", "one")
            await settle()
            assert len(engine.queue) == 0  # nobody draws it twice
            assert engine.status.cancelled == 1

    asyncio.run(run())


def test_a_drawer_passes_on_what_its_engine_says() -> None:
    async def run() -> list[object]:
        async with Fakes(answer=good).engine() as engine:
            return [word async for word in words_of(engine, job(), "one", look=0.001)]

    assert names(asyncio.run(run())) == ["Final"]  # type: ignore[arg-type]


def test_one_that_says_it_is_not_ready_is_not_asked_first() -> None:
    handles = Handles([started, final])
    handles.reports["two"] = ready_status(state="warming")

    async def check(drawers: Drawers) -> None:
        assert names(await events_of(drawers)) == ["Started", "Final"]
        assert handles.avoided == [["two"]]

    with_drawers(handles, check)


def test_what_all_refuse_is_refused_with_the_shortest_wait() -> None:
    handles = Handles([refuses("one")], [refuses("two", "queue_full", 8.0)])

    async def check(drawers: Drawers) -> None:
        (answer,) = await events_of(drawers)
        assert isinstance(answer, JobFailed)
        assert (answer.kind, answer.retry_after) == ("queue_full", 3.0)
        error = failure(answer)
        assert (error.status, error.headers()["retry-after"]) == (429, "3")

    with_drawers(handles, check)


def test_what_one_had_begun_waits_for_room_with_the_others() -> None:
    """It was accepted: that the others are full now is no answer."""
    refusals = [[refuses("two", "queue_full")], [refuses("one")]]
    handles = Handles([started, ActorDied()], *refusals, *refusals, [started, final])

    async def check(drawers: Drawers) -> None:
        assert names(await events_of(drawers)) == ["Started", "Started", "Final"]
        assert handles.asked == 6

    with_drawers(handles, check)


def test_a_drawer_that_hangs_is_given_up_at_the_deadline() -> None:
    handles = Handles([started, "hang"])

    async def check(drawers: Drawers) -> None:
        events = await events_of(drawers, deadline=time.monotonic() - 10.0)
        assert isinstance(events[-1], JobFailed)
        assert events[-1].kind == "deadline"
        assert handles.cancelled == 1

    with_drawers(handles, check)


def test_the_end_of_a_drain_answers_what_is_left() -> None:
    handles = Handles([started, "hang"])

    async def check(drawers: Drawers) -> None:
        stream = drawers.submit(job())
        await stream.__anext__()
        waiting = asyncio.ensure_future(stream.__anext__())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await drawers.drain(0.0)
        answer = await waiting
        assert isinstance(answer, JobFailed)
        assert answer.kind == "draining"
        assert handles.cancelled == 1

    with_drawers(handles, check)


def test_the_front_is_bounded_and_closing_cancels() -> None:
    handles = Handles(*[[started, final]] * 2)

    async def check(drawers: Drawers) -> None:
        streams = [drawers.submit(job(name)) for name in ("a", "b")]
        with pytest.raises(QueueFull) as raised:
            drawers.submit(job("c"))
        assert raised.value.retry_after >= 1.0
        await streams[0].__anext__()
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert handles.cancelled == 1  # the other had not been asked for yet

    with_drawers(handles, check, queue_limit=1)


def test_why_ray_gave_up_is_the_servers_state() -> None:
    async def run() -> None:
        async def trouble() -> str:
            return "no such model"

        handles = Handles()
        handles.reports.clear()
        drawers = Drawers(handles, handles, EngineSettings(), trouble=trouble)
        await drawers.start()
        while drawers.status.state != "failed":
            await asyncio.sleep(0)
        assert drawers.status.why == "no such model"
        await drawers.drain(0.0)

    asyncio.run(run())


# ---- many engines as one

COUNTERS = strategies.integers(0, 5)


@given(
    strategies.lists(
        strategies.dictionaries(strategies.sampled_from("abc"), COUNTERS, max_size=3), max_size=6
    )
)
@settings(max_examples=25)
def test_no_counter_ever_falls(rounds: list[dict[str, int]]) -> None:
    """A drawer may be missing for a while, or for ever; its own counts only grow."""
    engines, totals, sums = ManyEngines(), dict.fromkeys("abc", 0), [0]
    for additions in rounds:
        for name, more in additions.items():
            totals[name] += more
        engines.update({name: ready_status(completed=totals[name]) for name in additions})
        sums.append(engines.status.completed)
    assert sums == sorted(sums)
    assert sums[-1] == sum(totals.values())


def test_the_status_of_many_is_the_best_of_them() -> None:
    engines = ManyEngines(expected=2)
    assert engines.status.state == "starting"
    engines.update({"a": EngineStatus(state="failed", why="no such model")})
    assert engines.status.state == "starting"  # the other has not said anything yet
    engines.update(dict.fromkeys("ab", EngineStatus(state="failed", why="no such model")))
    assert engines.status.state == "failed"
    worker = WorkerStatus(number=0, state="ready")
    engines.update(
        {
            "a": ready_status(running=1, queue_depth=2, workers=(worker,)),
            "b": ready_status(running=2, workers=(worker,), seconds_per_picture=4.0),
            "c": EngineStatus(state="warming", ready_in=7.0),
        }
    )
    status = engines.status
    assert (status.state, status.running, status.queue_depth) == ("ready", 3, 2)
    assert status.seconds_per_picture == 3.0
    assert status.why.endswith("2 of 3 drawers are ready")
    assert [(worker.number, worker.why) for worker in status.workers] == [
        (0, "drawer a: "),
        (1, "drawer b: "),
    ]
    assert engines.unready == {"c"}


def test_each_alarm_is_passed_on_once_with_its_drawer() -> None:
    engines = ManyEngines()
    engines.update({"a": ready_status(alarms=("one",), alarm_count=1)})
    engines.update({"a": ready_status(alarms=("one", "two"), alarm_count=2), "b": ready_status()})
    engines.update({"b": ready_status(alarms=("three",), alarm_count=1)})
    assert engines.status.alarms == ("drawer a: one", "drawer a: two", "drawer b: three")
    assert engines.status.alarm_count == 3


def test_the_board_forgets_who_says_nothing() -> None:
    clock = FakeClock()
    board = Board(lambda: clock.now)

    async def run() -> set[str]:
        await board.report("a", msgspec.msgpack.encode(ready_status()))
        clock.now += 4.0
        await board.report("b", msgspec.msgpack.encode(ready_status()))
        clock.now += 4.0
        return set(msgspec.msgpack.decode(await board.read(), type=dict[str, EngineStatus]))

    assert asyncio.run(run()) == {"b"}


def test_a_drawer_says_what_another_may_take_and_what_none_would() -> None:
    full = refusal_of(QueueFull("full", 4.0), job(), "one")
    starting = refusal_of(NotReady("starting", 9.0), job(), "one")
    refused = refusal_of(Refused("no such size", "size"), job(), "one")
    assert (full.kind, full.again) == ("queue_full", 4.0)  # type: ignore[union-attr]
    assert (starting.kind, starting.again) == ("not_ready", 9.0)  # type: ignore[union-attr]
    assert isinstance(refused, JobFailed)
    assert (refused.kind, refused.retryable) == ("bad_request", False)


def test_the_router_passes_over_whom_the_call_avoids(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("ray.serve.request_router")
    vars(module).update(RequestRouter=object)
    monkeypatch.setitem(sys.modules, "ray.serve.request_router", module)
    monkeypatch.delitem(sys.modules, "halftime.verbs.serve.ray_router", raising=False)
    router = importlib.import_module("halftime.verbs.serve.ray_router").AvoidingRouter()
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "ab"]

    def chosen(*avoided: str) -> list[list[object]]:
        pending = SimpleNamespace(kwargs={"avoid": avoided})
        result: list[list[object]] = asyncio.run(router.choose_replicas(replicas, pending))
        return result

    assert chosen("a") == [[replicas[1]]]
    assert chosen() == chosen("a", "b") == [replicas]


# ---- settings


def test_a_config_file_is_read_strictly() -> None:
    cluster = msgspec.convert({"replicas": 2, "engine": {"steps": [10], "threads": 1}}, Cluster)
    assert cluster.engine.steps == (10,)
    for wrong in ({"replica": 2}, {"replicas": 0}, {"least": 2}, {"least": 3, "most": 2}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Cluster)


def test_a_config_file_has_the_keys_of_the_environment_and_one_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = msgspec.convert(
        {"engine": {"deadline_seconds": 7.0}, "api_keys": ["a"], "aliases": ["gpt-image-1"]},
        Cluster,
    )
    monkeypatch.setenv("HALFTIME_API_KEY", "a, b")
    http = with_environment(http_settings(cluster))
    assert http.api_keys == ("a", "b")
    assert http.deadline == 7.0
    assert http.names == ("emoji-xl", "gpt-image-1")
    monkeypatch.setenv("HALFTIME_API_KEY", " ")
    with pytest.raises(BadInput, match="HALFTIME_API_KEY"):
        with_environment(http_settings(cluster))


def test_autoscaling_goes_from_least_to_most() -> None:
    assert scaling_of(Cluster(replicas=3)) == {"num_replicas": 3}
    scaling = scaling_of(Cluster(least=2, most=8, engine=EngineSettings(max_batch=4)))
    assert scaling["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 8,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 30.0,
        "downscale_delay_s": 600.0,
    }


def test_ray_waits_for_a_drawer_longer_than_a_request_may_take() -> None:
    cluster = Cluster(engine=EngineSettings(deadline_seconds=90.0), drain_seconds=30.0)
    assert drawer_options(cluster)["graceful_shutdown_timeout_s"] > 90.0  # type: ignore[operator]


NODE = {"CPU": 2.0, "memory": 1e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("need", "drawers", "nodes", "available", "missing"),
    [
        (Need(1.0, 0.0), 2, [NODE], NODE, None),
        (Need(0.0, 0.0), 9, [NODE], {}, None),
        (Need(0.1, 0.0), 20, [NODE], NODE, None),
        (Need(1.5, 0.0), 2, [NODE], NODE, "1 of them would. Its nodes have: 2 CPUs"),
        (Need(1.0, 0.0), 2, [NODE], {"CPU": 0.5}, "1.5 CPUs are missing; 0.5 CPUs are free"),
        (Need(1.0, 1.0), 2, [GPU_NODE, NODE], GPU_NODE, "1 of them would"),
        # two halves are no whole
        (Need(1.0, 2.0), 1, [GPU_NODE] * 2, {"CPU": 16.0, "GPU": 2.0}, "0 of them would"),
        (Need(1.0, 1.0), 2, [GPU_NODE] * 2, {"CPU": 16.0, "GPU": 2.0}, None),
    ],
)
def test_what_a_cluster_lacks_is_said_before_the_start(
    need: Need,
    drawers: int,
    nodes: list[dict[str, float]],
    available: dict[str, float],
    missing: str | None,
) -> None:
    """Two drawers of 1.0 and a front of 0.1 never started on two cores, and nobody said why."""
    if missing is None:
        check_resources(need, drawers, nodes, available)
        return
    with pytest.raises(BadInput, match=re.escape(missing)) as raised:
        check_resources(need, drawers, nodes, available)
    assert "--replicas" in str(raised.value)


def test_a_drawer_takes_a_gpu_for_each_worker_unless_told_otherwise() -> None:
    assert need_of("cpu", 2, None, None, GPU_NODE) == (1.0, 0.0)
    assert need_of("cuda", 2, None, None, GPU_NODE) == (1.0, 2.0)
    assert need_of(None, 1, 4.0, None, GPU_NODE) == (4.0, 1.0)
    assert need_of(None, 1, None, None, NODE) == (1.0, 0.0)
    assert need_of("cuda", 1, None, 0.5, GPU_NODE) == (1.0, 0.5)


@given(strategies.text("aB1/._-é ", min_size=1, max_size=20))
@settings(max_examples=25)
def test_an_applications_name_has_only_what_ray_takes(model: str) -> None:
    assert re.fullmatch(r"halftime-[A-Za-z0-9-]*", app_name(model))
