"""HTTP/2, to a server on h2: what is sent, what is stamped, and what is refused by name."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_servers import shorten_calibration
from halftime.base.errors import BadInput
from halftime.cli.gateway import _refuse_idle
from halftime.testing.proxies import in_a_thread
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.endpoint import Payload, Trust, endpoint
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.timer import now
from http2_server import STREAM_HEAD, Script, answer, serving_http2

CHAT = Payload(prompts=("Hello",))


def sent(
    script: Script,
    payload: Payload = CHAT,
    count: int = 1,
    *,
    timeout: float = 20.0,
    http2: bool = True,
) -> list[Sample]:
    """So many requests, one after the other."""

    async def go() -> list[Sample]:
        async with serving_http2(script) as url:
            pool = Pool(endpoint(url, payload, http2=http2), "direct", timeout)
            samples = [await pool.send(f"{i:08x}", now()) for i in range(count)]
            pool.close()
            return samples

    return asyncio.run(go())


def test_requests_go_one_after_the_other_over_one_connection() -> None:
    script = Script()
    samples = sent(script, count=3)
    assert [(s.error, s.status) for s in samples] == [("", 200)] * 3
    assert [s.fresh for s in samples] == [True, False, False]
    assert script.connections == 1
    assert [s.reply.size for s in samples] == [5] * 3
    head = script.heads[0]
    assert (head[":method"], head[":scheme"], head[":path"]) == (
        "POST",
        "http",
        "/v1/chat/completions",
    )
    assert head[":authority"].startswith("127.0.0.1:")
    assert head["content-type"] == "application/json"
    assert {"host", "connection"}.isdisjoint(head)
    assert json.loads(script.bodies[2])["messages"][0]["content"] == "Hello (halftime-00000002)"


def test_a_body_waits_for_the_servers_window_and_a_long_answer_for_ours() -> None:
    script = Script((answer("a" * 200_000),))
    (sample,) = sent(script, Payload("image-in", 20_000))
    assert sample.error == ""
    assert len(script.bodies[0]) > 20_000  # through a window of 1,000 bytes
    assert sample.reply.size == 200_000


def test_a_streams_chunks_are_stamped_as_they_come() -> None:
    events = tuple(
        b"data: " + json.dumps({"choices": [{"delta": {"content": "a"}}]}).encode() + b"\n\n"
        for _ in range(3)
    )
    script = Script((*events, b"data: [DONE]\n\n"), STREAM_HEAD, delay=0.05, gap=0.05)
    (sample,) = sent(script, replace(CHAT, stream=True))
    assert (sample.error, sample.reply.events, sample.reply.finished) == ("", 3, True)
    assert sample.first_chunk - sample.sent >= 0.05
    assert sample.end - sample.sent >= 0.2
    assert sample.sent < sample.first_chunk == sample.chunks[0] < sample.chunks[-1] == sample.end


def test_interim_answers_are_passed_over() -> None:
    script = Script(interim=[(":status", "103"), ("link", "</a>")])
    samples = sent(script, count=2)
    assert [(s.error, s.status, s.interim) for s in samples] == [("", 200, 1)] * 2


def test_a_goodbye_ends_the_connection_and_not_the_answer() -> None:
    script = Script(goodbye=True)
    samples = sent(script, count=2)
    assert [(s.error, s.fresh) for s in samples] == [("", True)] * 2
    assert script.connections == 2


def test_a_reset_stream_is_a_failure() -> None:
    (sample,) = sent(Script(reset=True))
    assert sample.error == "cut short"


def test_a_request_that_is_not_answered_times_out_and_does_not_answer_the_next() -> None:
    script = Script(delay=60.0)
    samples = sent(script, count=2, timeout=0.2)
    assert [s.error for s in samples] == ["timeout"] * 2
    assert script.connections == 2


def test_each_protocol_refuses_the_other_by_name() -> None:
    (sample,) = sent(Script(raw=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
    assert sample.error == "not HTTP/2"
    (sample,) = sent(Script(), http2=False)  # the server speaks first
    assert sample.error == "not HTTP/1.1"
    (sample,) = sent(Script(raw=b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), http2=False)
    assert "--http2 direct" in sample.hint


def over_tls(certificate: Path, protocols: list[str], http2: bool) -> Sample:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(protocols)

    async def go() -> Sample:
        async with serving_http2(Script(), context) as url:
            point = endpoint(url, CHAT, trust=Trust(str(certificate)), http2=http2)
            pool = Pool(point, "direct", 20.0)
            sample = await pool.send("0" * 8, now())
            pool.close()
            return sample

    return asyncio.run(go())


def test_over_tls_the_two_agree_on_it(certificate: Path) -> None:
    assert over_tls(certificate, ["h2", "http/1.1"], http2=True).error == ""
    refused = over_tls(certificate, ["http/1.1"], http2=True)
    assert refused.error.startswith("connect: ")
    assert "HTTP" in refused.hint


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)


@pytest.mark.usefixtures("short_calibration")
def test_a_whole_measurement_in_http2_says_so() -> None:
    servers = [serving_http2(Script())]  # held until the end

    async def listen() -> str:
        return await servers[0].__aenter__()

    with in_a_thread(listen) as url:
        settings = GatewaySettings(url, url, CHAT, requests=5, concurrency=2, seconds=0.15)
        both = gateway(replace(settings, http2="both"))
    assert both.http2 == "both"
    assert sum(load.errors for load in both.rates) == 0
    assert both.did_its_job
    assert not any("HTTP/2" in doubt for doubt in both.doubts)


def test_http2_of_a_gateway_needs_one() -> None:
    words = dict.fromkeys(
        ("through", "picture_url", "client_key", "insecure", "prompts", "budget", "session")
    )
    with pytest.raises(BadInput, match="--http2 both needs --through URL"):
        _refuse_idle({"http2": "both", **dict.fromkeys(_ALL), **words})


_ALL = ("through_key_env", "through_headers", "through_model", "payload", "client_cert", "ca_file")
