"""The instrument against the mock and the planted proxy, on 127.0.0.1, with short loads.

Beside 20 busy processes a thread here waits up to 0.1 s for its turn. What is planted is therefore
a few times longer, or only bounded from below.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway_servers import mock_and_proxy, shorten_calibration
from halftime.base.errors import BadInput, HalftimeError, MissingExtra
from halftime.cli.gateway import command
from halftime.verbs.gateway import extra, findings, load
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.endpoint import Payload, Trust, endpoint
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.timer import Timer, now
from halftime.verbs.gateway.upstream import is_mock, take_log


def sent(
    url: str, payload: Payload, work: Callable[[Pool], Awaitable[list[Sample]]], timeout: float = 5
) -> list:
    async def go() -> list[Sample]:
        pool = Pool(endpoint(url, payload), "direct", timeout)
        try:
            return await work(pool)
        finally:
            pool.close()

    return asyncio.run(go())


async def three(pool: Pool) -> list[Sample]:
    return [await pool.send(f"{i:08x}", now()) for i in range(3)]


SHORT = {"requests": 12, "concurrency": 2, "seconds": 0.3}


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)


def test_a_measurement_finds_the_planted_delay_and_keeps_the_contract() -> None:
    """With the generator's own mock as a process, as users have it."""
    with mock_and_proxy(Behaviour(delay=0.002), "holds-requests", 0.3) as (direct, through):
        result = gateway(
            GatewaySettings(direct, through, rates=(20.0,), arrivals=("constant",), **SHORT)
        )
    assert result.method == "mock log"
    sequential = result.rates[0]
    assert sequential.truth.matched == 24
    assert sequential.truth.overhead.p50 >= 0.3  # held at least as long as planted
    assert sequential.truth.overhead.p50 > sequential.truth.floor.p50
    assert sequential.added.low <= sequential.added.p50 <= sequential.added.high
    assert [item.mode for item in result.rates] == ["sequential", "closed", "constant"]
    assert result.generator.max_rate > 0
    assert result.generator.send_lag_p99 >= 0
    assert sequential.cpu_per_request is not None  # the proxy is a local process: this one
    assert sum(item.errors for item in result.rates) == 0


@pytest.mark.usefixtures("short_calibration")
def test_a_new_client_per_request_is_named() -> None:
    with mock_and_proxy(Behaviour(delay=0.0), "new-clients") as (direct, through):
        result = gateway(GatewaySettings(direct, through, requests=20, concurrency=0))
    assert result.rates[0].truth.connections == 20
    assert "new-client-per-request" in [finding.id for finding in result.findings]


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize(
    ("gap", "fault", "seconds", "expected"),
    [
        (0.1, "buffers-streams", None, "stream-buffered"),
        (0.25, "holds-first-chunk", 0.3, "first-chunk-waits"),
        (0.1, "paces-chunks", 0.25, "chunks-held"),
    ],
)
def test_faults_of_a_stream_are_told_apart(
    gap: float,
    fault: str,
    seconds: float | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Below the holds, which are not the first request's price; above what a busy machine adds.
    monkeypatch.setattr(findings, "FIRST_REQUEST", 0.24)
    with mock_and_proxy(Behaviour(delay=0.0, gap=gap, chunks=3), fault, seconds) as urls:
        settings = GatewaySettings(*urls, Payload(stream=True), requests=5, concurrency=0)
        result = gateway(settings)
    streams = {"stream-buffered", "first-chunk-waits", "chunks-held", "first-request"}
    assert [finding.id for finding in result.findings if finding.id in streams] == [expected]


def test_a_streamed_answer_is_timed_chunk_by_chunk() -> None:
    with mock_and_proxy(Behaviour(delay=0.0, chunks=4, gap=0.1)) as (direct, _):
        samples = sent(direct, Payload(stream=True), three)
        log = take_log(direct)
    assert len(samples) == 3
    for sample in samples:
        assert sample.ok
        assert 2 <= len(sample.chunks) <= 4  # a stalled reader finds several at once
        assert (
            sample.sent < sample.first_chunk == sample.chunks[0] < sample.chunks[-1] == sample.end
        )
        assert sample.end - sample.sent >= 0.3
        assert log[sample.id][0].sent - log[sample.id][0].first >= 0.3


@pytest.mark.parametrize("size", [1000, 300_000])
def test_the_mock_answers_with_the_size_asked_for(size: int) -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        for url in (direct, through):
            samples = sent(url, Payload("image-out", size), three)
            assert len(samples) == 3
            assert all(size * 4 / 3 <= s.received <= size * 4 / 3 + 200 for s in samples)


@pytest.mark.usefixtures("short_calibration")
@pytest.mark.parametrize("target", ["openai", "kserve", "replicate", "fal"])
def test_the_mock_speaks_each_target(target: str) -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, _):
        base = direct.removesuffix("/v1")
        result = gateway(
            GatewaySettings(
                base, target=target, payload=Payload("image-in", 2000), requests=5, concurrency=0
            )
        )
    assert result.through is None
    assert result.rates[0].added is None
    assert result.rates[0].errors == 0


def test_errors_are_counted_and_drawn_by_seed() -> None:
    async def eight(pool: Pool) -> list[Sample]:
        rounds = await load.sequential([pool], 8, load.numbers(0), random.Random(0))
        return [sample for (sample,) in rounds]

    with mock_and_proxy(Behaviour(delay=0.0, error_rate=0.5, seed=1)) as (direct, _):
        samples = sent(direct, Payload(), eight)
    seeded = random.Random(1)
    assert [s.status for s in samples] == [500 if seeded.random() < 0.5 else 200 for _ in samples]
    assert {s.status for s in samples} == {200, 500}
    assert all(s.ok == (s.status == 200) for s in samples)


def test_a_closed_loop_keeps_so_many_requests_in_flight() -> None:
    with mock_and_proxy(Behaviour(delay=0.05)) as (direct, _):
        samples = sent(direct, Payload(), lambda pool: load.closed(pool, 2, 0.2, load.numbers(0)))
        log = take_log(direct)
    assert all(s.ok for s in samples)
    assert len({log[s.id][0].connection for s in samples}) == 2
    assert max(sum(t.begun <= s.begun < t.end for t in samples) for s in samples) == 2


def test_a_request_that_is_never_answered_times_out() -> None:
    with mock_and_proxy(Behaviour(delay=60)) as (direct, _):
        samples = sent(direct, Payload(), three, timeout=0.5)
    assert [sample.error for sample in samples] == ["timeout"] * 3


def test_an_open_loop_counts_from_the_intended_send() -> None:
    async def go(pool: Pool) -> list[Sample]:
        timer = Timer(asyncio.get_running_loop())
        try:
            return await load.open_loop(pool, [i * 0.01 for i in range(20)], load.numbers(0), timer)
        finally:
            timer.close()

    # One by one, 30 ms each, offered every 10 ms: the i-th waits for those before it.
    with mock_and_proxy(Behaviour(delay=0.0), "queues", 0.03) as (_, through):
        samples = sorted(sent(through, Payload(), go), key=lambda sample: sample.intended)
    assert len(samples) == 20
    assert samples[-1].latency >= 20 * 0.03 - 19 * 0.01 - 0.001
    assert all(s.begun >= s.intended for s in samples)


def test_schedules_keep_the_rate() -> None:
    rng = random.Random(3)
    assert load.schedule(100, 1, False, rng) == [i / 100 for i in range(100)]
    offsets = load.schedule(1000, 5, True, rng)
    assert 4700 < len(offsets) < 5300
    assert offsets == sorted(offsets)
    assert offsets[-1] < 5


def test_timers_never_ring_early_and_keep_their_order() -> None:
    async def go() -> list[tuple[float, float]]:
        timer, rung, start_at = Timer(asyncio.get_running_loop()), [], now()
        for offset in (0.02, 0.005, 0.01, -1.0):
            timer.call_at(
                start_at + offset, lambda due=start_at + offset: rung.append((due, now()))
            )
        await timer.sleep_until(start_at + 0.03)
        timer.close()
        return rung

    rung = asyncio.run(go())
    assert [due for due, _ in rung] == sorted(due for due, _ in rung)
    assert len(rung) == 4
    assert all(at >= due for due, at in rung)


@pytest.mark.usefixtures("short_calibration")
def test_the_command_writes_json_and_gates_on_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    words = ["--requests", "5", "--concurrency", "0", "--key-env", "A_KEY", "-q"]
    with mock_and_proxy(Behaviour(delay=0.0), "holds-requests", 0.2) as (direct, through):
        words += ["--direct", direct, "--through", through]
        files = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
        within = CliRunner().invoke(
            command, [*words, *files, "--budget", "10s"], standalone_mode=False
        )
        beyond = CliRunner().invoke(command, [*words, "--budget", "5ms"], standalone_mode=False)
    assert (within.return_value, beyond.return_value) == (0, 1)
    page, data = (tmp_path / "a.html").read_text(), (tmp_path / "a.json").read_text()
    assert "sk-very-secret" not in page + data + within.output
    assert page.count('class="chart"') == 1
    record = json.loads(data)
    assert {"rates", "generator", "findings", "payload"} <= record.keys()
    row = record["rates"][0]
    assert {"p50", "p95", "p99", "low", "high"} <= row["added"].keys()
    assert {"rate", "direct", "through", "ttft_added", "errors", "saturated"} <= row.keys()


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match="connect: ConnectionRefusedError"):
        gateway(GatewaySettings("http://127.0.0.1:9/v1"))
    assert not is_mock("http://127.0.0.1:9/v1")


@pytest.mark.usefixtures("short_calibration")
def test_a_noisy_machine_is_refused() -> None:
    with (
        mock_and_proxy(Behaviour(delay=0.0)) as (direct, through),
        pytest.raises(HalftimeError, match="refused"),
    ):
        gateway(GatewaySettings(direct, through, requests=5, concurrency=0, max_background=-1.0))


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"halftime\[gateway\]"):
        extra.need("no_such_package_of_ours")


def refusal_over_tls(context: ssl.SSLContext, trust: Trust) -> Sample:
    """The first request to a server with this context, which answers nothing."""

    async def go() -> Sample:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        pool = Pool(endpoint(url, Payload(), trust=trust), "direct", 20)
        sample = await pool.send("0" * 8, now())
        pool.close()
        server.close()
        return sample

    return asyncio.run(go())


def test_certificates_are_asked_for_by_name(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    untrusted = refusal_over_tls(context, Trust())
    assert untrusted.error == "connect: SSLCertVerificationError"
    assert "--ca-file PEM" in untrusted.hint
    assert refusal_over_tls(context, Trust(insecure=True)).error == "connection lost"  # it is in
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    nobody = refusal_over_tls(context, Trust(str(certificate)))
    assert "--client-cert PEM" in nobody.hint
    known = refusal_over_tls(context, Trust(str(certificate), client_cert=str(certificate)))
    assert known.error == "connection lost"
    assert known.hint == ""


def test_tls_is_split_from_connect(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def go() -> tuple[float, float]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        pool = Pool(endpoint(url, Payload(), trust=Trust(str(certificate))), "direct", 5)
        connection, connect, tls = await pool.open()
        connection.close()
        server.close()
        return connect, tls

    connect, tls = asyncio.run(go())
    assert connect > 0
    assert tls > 0
