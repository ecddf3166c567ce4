"""Ctrl-C: asyncio's runner cancels the measurement, which gives what it has.

No signal is sent here: what a runner makes of one is a cancellation at the next await.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_servers import mock_and_proxy, shorten_calibration
from halftime.cli import main
from halftime.cli.ending import CommandNotes
from halftime.verbs.gateway import load, run
from halftime.verbs.gateway.brake import INTERRUPTED, Brake
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.endpoint import Payload, endpoint
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.timer import Timer
from halftime.verbs.gateway.verdict import with_budget

SETTINGS = GatewaySettings("", requests=6, concurrency=2, seconds=0.15, rates=(20.0,))


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)
    monkeypatch.setattr(run, "ca_bundle_seconds", lambda: 0.01)


def cancels_at(phase: str, part: int = 0) -> Callable[[str, int, int], None]:
    """A progress that cancels the measurement when it comes to this part of this load."""

    def progress(name: str, finished: int, total: int) -> None:
        if name == phase and finished == part:
            asyncio.current_task().cancel()

    return progress


def interrupted_at(phase: str, part: int = 0) -> run.GatewayResult:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        settings = replace(SETTINGS, direct=direct, through=through)
        return gateway(settings, cancels_at(phase, part))


def test_an_interrupted_measurement_gives_whole_blocks_with_the_moment_and_the_load() -> None:
    result = interrupted_at("20 requests/s, constant", 2)
    assert [level.mode for level in result.rates] == ["sequential", "closed", "constant"]
    assert [level.cut for level in result.rates] == ["", "", INTERRUPTED]
    assert result.interrupted
    assert result.stopped.startswith("interrupted by Ctrl-C (")
    assert "into the measurement, after" in result.stopped
    assert "in '20 requests/s, constant'" in result.stopped
    assert result.generator is None
    assert result.did_its_job
    # what was not measured may exceed a budget, and what was may have exceeded it already
    assert with_budget(result, 100.0).within_budget is None
    assert with_budget(result, -100.0).within_budget is False


def test_a_load_without_a_whole_block_is_left_out() -> None:
    assert [level.mode for level in interrupted_at("closed loop").rates] == ["sequential"]


def test_the_loads_are_there_where_only_the_generators_floor_is_missing() -> None:
    result = interrupted_at("the generator's own floor")
    assert len(result.rates) == 4
    assert result.generator is None
    assert "in 'the generator's own floor'" in result.stopped


def test_before_anything_was_measured_it_is_an_interruption_like_any_other() -> None:
    with pytest.raises(asyncio.CancelledError):  # a KeyboardInterrupt where a signal came
        interrupted_at("one request at a time")


def test_pairs_are_kept_and_half_a_pair_is_not() -> None:
    sent: list[str] = []

    class CancelledPool:
        arm = "direct"

        async def send(self, number: str, intended: float) -> Sample:
            sent.append(number)
            if len(sent) == 4:
                asyncio.current_task().cancel()
            await asyncio.sleep(0)
            return Sample(number, self.arm, intended, status=200)

    class Order:
        @staticmethod
        def shuffle(items: list) -> None:
            """Leave them."""

    async def go() -> tuple[list[list[Sample]], int]:
        pools = [CancelledPool(), CancelledPool()]
        for pool in pools:
            pool.allowance = type("All", (), {"left": 100})
        pairs = await load.sequential(pools, 9, lambda: "x", Order, brake=brake)  # type: ignore
        return pairs, asyncio.current_task().cancelling()

    brake = Brake()
    pairs, cancelling = asyncio.run(go())
    assert len(pairs) == 1
    assert brake.interrupted
    assert cancelling == 0  # dealt with: what follows may await again


def cancelled(work: Callable[[Pool, Timer, Brake], Awaitable[object]]) -> Brake:
    """A load before an upstream that never answers, cancelled."""

    async def go() -> None:
        timer = Timer(asyncio.get_running_loop())
        pool = Pool(endpoint(direct, Payload()), "direct", 60.0)
        task = asyncio.ensure_future(work(pool, timer, brake))
        while not pool.allowance.spent:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(other is asyncio.current_task() for other in asyncio.all_tasks())
        timer.close()

    brake = Brake()
    with mock_and_proxy(Behaviour(delay=60.0)) as (direct, _):
        asyncio.run(go())
    return brake


def test_an_open_loop_that_is_cancelled_leaves_no_request_and_sends_no_further_one() -> None:
    brake = cancelled(
        lambda pool, timer, brake: load.open_loop(
            pool, [0.0, 3600.0], load.numbers(0), timer, brake
        )
    )
    assert brake.interrupted


def test_a_closed_loop_that_is_cancelled_leaves_no_request() -> None:
    cancelled(lambda pool, _, brake: load.closed(pool, 3, 3600.0, load.numbers(0), brake))


def test_the_command_writes_the_report_and_ends_as_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    monkeypatch.setattr("halftime.cli.gateway._progress", lambda quiet: Quiet())
    words = ["--requests", "6", "--concurrency", "0", "--rate", "20", "--duration", "150ms"]
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through), pytest.raises(SystemExit) as e:
        main(["gateway", through, "--direct", direct, *words, "--json", str(file)])
    assert e.value.code == 130
    record = json.loads(file.read_text())
    assert [level["mode"] for level in record["rates"]] == ["sequential"]
    assert record["interrupted"] is True
    output = capsys.readouterr()
    assert "interrupted by Ctrl-C (" in output.out
    assert "its own floor was not measured" in output.out
    assert output.err.rstrip().endswith("the report holds what was measured until then.")
    assert f"{file} is complete" in output.err


class Quiet:
    """The command's progress, which cancels it at the first open loop."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        return cancels_at("20 requests/s, constant")

    def __exit__(self, *error: object) -> None:
        """Nothing was opened."""


def test_the_last_sentence_needs_no_file() -> None:
    assert CommandNotes().interruption() == "interrupted; nothing was written."


def test_a_cancellation_as_the_connection_is_made_is_not_lost() -> None:
    """Or Ctrl-C would wait for the answer."""
    sent: list[str] = []

    class Connection:
        reusable = False

        async def send(self, parts: object, sample: Sample) -> None:
            await asyncio.sleep(0)
            sent.append(sample.id)

        def close(self, error: str = "") -> None:
            """Nothing is open."""

    async def go() -> None:
        pool = Pool(endpoint("http://127.0.0.1:9/v1", Payload()), "direct", 60.0)

        async def open_then_cancelled() -> tuple[Connection, float]:
            task.cancel()
            return Connection(), 0.0

        pool.open = open_then_cancelled  # type: ignore[method-assign, assignment]
        task = asyncio.ensure_future(pool.send("a", 0.0))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert sent == []
