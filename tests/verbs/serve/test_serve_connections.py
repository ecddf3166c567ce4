"""Connections before anything of a request is known: silent, slow, too many, half-closed, too
large."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halftime.http import server
from halftime.http.protocol import MOST_HEAD, MOST_HEADERS, ConnectionLimits
from serve_fake import ENDLESS, Running, http, serving, wait_until

DRAW = b"POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\n"
BODY = b'{"prompt": "p"}'
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as running_server:
        yield running_server


@contextlib.contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    host, port = running.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        yield line


def answer(line: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := line.recv(2**16):
            received += data
    return received


def draw_request(**body: object) -> bytes:
    content = json.dumps({"prompt": "p", **body}).encode()
    head = DRAW + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
    return head + content


def error_code(text: bytes) -> str:
    code: str = json.loads(text.partition(b"\r\n\r\n")[2])["error"]["code"]
    return code


LARGE = b"x" * (MOST_HEAD + 1)
TOO_LARGE = {
    "one header": HEALTH + b"a: " + LARGE + b"\r\n\r\n",
    "one that does not end": HEALTH + b"a: " + LARGE,
    "a name that does not end": HEALTH + LARGE,
    "a path": b"GET /" + LARGE + b" HTTP/1.1\r\n\r\n",
    "a method": LARGE,
    "many": HEALTH + b"".join(b"a%d: b\r\n" % n for n in range(MOST_HEADERS + 1)) + b"\r\n",
    "many large": HEALTH + b"".join(b"a%d: %s\r\n" % (n, b"x" * 1000) for n in range(40)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_that_is_too_large_is_431_before_anybody_is_asked(
    running: Running, name: str
) -> None:
    with connected(running) as line:
        line.sendall(TOO_LARGE[name])
        text = answer(line)
    status = text.split(b" ")[1]
    assert status in ((b"400", b"431") if name == "a method" else (b"431",))
    assert b"connection: close" in text
    assert error_code(text) in ("head_too_large", "invalid_http")


def test_trailers_count_as_head(running: Running) -> None:
    head = DRAW + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    trailers = b"".join(b"t%d: %s\r\n" % (n, b"x" * 1000) for n in range(40))
    with connected(running) as line:
        line.sendall(head + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY) + trailers)
        assert answer(line).split(b" ")[1] == b"431"


def test_a_head_of_an_ordinary_size_passes(running: Running) -> None:
    with connected(running) as line:
        line.sendall(HEALTH + b"cookie: " + b"x" * 8000 + b"\r\nconnection: close\r\n\r\n")
        assert b" 200 " in answer(line)


def test_what_is_not_http_is_400_in_openais_shape(running: Running) -> None:
    with connected(running) as line:
        line.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        text = answer(line)
    assert text.startswith(b"HTTP/1.1 400 ")
    assert error_code(text) == "invalid_http"


def test_two_hosts_are_one_too_many(running: Running) -> None:
    with connected(running) as line:
        line.sendall(HEALTH + b"Host: elsewhere\r\nconnection: close\r\n\r\n")
        text = answer(line)
    assert (text.split(b" ")[1], error_code(text)) == (b"400", "duplicate_header")


def test_silence_and_slow_heads_end_and_slow_answers_do_not() -> None:
    with (
        serving(limits=ConnectionLimits(head_seconds=0.3), step_seconds=0.1) as running,
        connected(running) as silent,
        connected(running) as slow,
        connected(running) as good,
    ):
        slow.sendall(HEALTH)
        good.sendall(draw_request(steps=12) + b"\r\n")  # as old browsers end a body
        assert answer(silent) == b""
        text = answer(slow)
        assert (text.split(b" ")[1], error_code(text)) == (b"408", "head_timeout")
        assert good.recv(20).startswith(b"HTTP/1.1 200 ")


def test_silent_connections_lock_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    limits = ConnectionLimits(connections=8)
    with (
        serving(limits=limits) as running,
        caplog.at_level(logging.WARNING),
        contextlib.ExitStack() as stack,
    ):
        kept_alive = stack.enter_context(connected(running))
        kept_alive.sendall(HEALTH + b"\r\n")
        assert b" 200 " in kept_alive.recv(2**16)
        drawing = stack.enter_context(connected(running))
        drawing.sendall(draw_request(prompt=ENDLESS, stream=True))
        wait_until(lambda: running.engine.status.running)
        for _ in range(60):
            stack.enter_context(connected(running))
        assert http.get(running.address + "/healthz").status_code == 200
        # the silent ones went first, in the order in which they came
        kept_alive.sendall(HEALTH + b"\r\n")
        assert b" 200 " in kept_alive.recv(2**16)
        assert running.engine.status.running == 1
        assert caplog.text.count("8 connections are open, the limit") == 1


def test_where_all_connections_are_at_work_a_newcomer_is_told() -> None:
    limits = ConnectionLimits(connections=2)
    with serving(limits=limits) as running, contextlib.ExitStack() as stack:
        for number in range(2):
            line = stack.enter_context(connected(running))
            line.sendall(draw_request(prompt=ENDLESS, stream=True))
            wait_until(lambda number=number: running.service.traffic.active == number + 1)
        with connected(running) as line:
            text = answer(line)
        assert (text.split(b" ")[1], error_code(text)) == (b"503", "too_many_connections")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_only_its_sending_side_gets_its_answer(stream: bool) -> None:
    with serving(step_seconds=0.05) as running, connected(running) as line:
        line.sendall(draw_request(stream=stream, steps=12))
        line.shutdown(socket.SHUT_WR)
        text = answer(line)
        assert (b"image_generation.completed" if stream else b"b64_json") in text
        assert b"HTTP/1.1 200 OK" in text
        assert running.engine.status.cancelled == 0


def test_half_a_request_from_a_client_that_sends_no_more_ends(running: Running) -> None:
    with connected(running) as line:
        line.sendall(draw_request()[:-3])
        line.shutdown(socket.SHUT_WR)
        assert answer(line) == b""
    wait_until(lambda: running.service.traffic.active == 0)


def test_as_many_connections_as_there_are_files_for(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(256, 512)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: files[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: files.append(pair))
    assert server.configuration(_nothing).http.limits.connections == (512 - 128) // 2  # type: ignore[union-attr]
    files.append((2**20, 2**20))
    assert server.configuration(_nothing).http.limits.connections == 1000  # type: ignore[union-attr]


async def _nothing(*_: object) -> None: ...


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [HEALTH, DRAW, b"\r\n", BODY, b"host: b\r\n", b"Content-Length: 3\r\n"]
            ),
            st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"\x00", b": \r\n"]),
            st.binary(max_size=40),
        ),
        max_size=8,
    )
)
def test_whatever_bytes_come_the_server_answers_others(
    running: Running, pieces: list[bytes]
) -> None:
    """A fuzz of heads: an answer below 500, or none, and the next request is served."""
    with connected(running) as line:
        line.sendall(b"".join(pieces))
        line.shutdown(socket.SHUT_WR)
        text = answer(line)
    assert not text or 100 <= int(text[9:12]) < 500, text
    assert http.get(running.address + "/healthz").status_code == 200
