"""The client against servers of raw bytes: interim answers, what was not asked for, odd framing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from halftime.verbs.gateway import connection
from halftime.verbs.gateway.client import Pool, _connect_hint
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.doubts import dead_addresses
from halftime.verbs.gateway.endpoint import Payload, Trust, endpoint
from halftime.verbs.gateway.timer import now

BODY = b'{"choices": [{"message": {"content": "%s"}}]}'
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(text: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    body = BODY % text
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def sent(script: Script, count: int = 1, **options: object) -> list[Sample]:
    """So many requests, one after the other, to a server that does what the script says."""

    async def go() -> list[Sample]:
        server = await asyncio.start_server(script, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        pool = Pool(endpoint(url, Payload()), "direct", 20.0)
        samples = [await pool.send(f"{i:08x}", now()) for i in range(count)]
        pool.close()
        server.close()
        return samples

    return asyncio.run(go())


def answering(*answers: bytes, close: bool = False) -> Script:
    """For each request one of these, in parts where it is a list."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for data in answers:
            if not await reader.read(2**16):
                break
            writer.write(data)
        if close:
            writer.close()

    return script


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "interim",
    [HINTS, HINTS * 3, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"],
)
def test_interim_answers_are_passed_over(interim: bytes) -> None:
    samples = sent(answering(*(interim + answer(b"%d" % i) for i in range(3))), 3)
    assert [s.error for s in samples] == ["", "", ""]
    assert [s.status for s in samples] == [200] * 3
    assert {s.interim for s in samples} == {interim.count(b"HTTP/")}
    digests = {s.reply.digest for s in samples}
    assert len(digests) == 3  # nobody reads the answer of the one before


def test_switching_protocols_is_no_answer() -> None:
    (sample,) = sent(answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"))
    assert not sample.ok
    assert sample.error


def test_a_second_answer_is_noticed_and_is_not_the_next_requests() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**16)
        writer.write(answer(b"first") + answer(b"again"))

    samples = sent(script, 3)
    assert [s.error for s in samples] == ["more than one answer"] * 3
    assert len({s.reply.digest for s in samples}) == 1  # always the first


def test_an_answer_that_ends_with_the_connection() -> None:
    whole = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY % b"a"
    (sample,) = sent(answering(whole, close=True))
    assert (sample.error, sample.status, sample.closes) == ("", 200, True)
    assert sample.ok


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (answer(b"a long text")[:-5], "cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "cut short"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 100\r\n\r\n<html>", "502"),
        (b"", "connection lost"),
        (b"HTTP/1.1 2", "connection lost"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1.1"),
    ],
)
def test_answers_that_break_off(data: bytes, error: str) -> None:
    (sample,) = sent(answering(data, close=True))
    assert sample.error == error
    assert not sample.ok
    assert sample.end >= sample.sent


def test_a_kept_connection_that_is_dropped_at_once_is_the_servers_fault() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**16)
        writer.write(answer(b"a"))
        await reader.read(2**16)
        writer.close()  # instead of an answer

    errors = [s.error for s in sent(script, 4)]
    assert errors == ["", "connection lost", "", "connection lost"]


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them refuses; the one that answers is then tried first."""

    async def go() -> tuple[Sample, Pool]:
        server = await asyncio.start_server(answering(answer(b"a")), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as unused:
            nobody = unused.getsockname()[1]
        pool = Pool(endpoint("http://two.example/v1", Payload()), "direct", 20.0)
        family = int(socket.AF_INET)
        pool._addresses = [(family, ("127.0.0.1", nobody)), (family, ("127.0.0.1", port))]
        sample = await pool.send("0" * 8, now())
        pool.close()
        server.close()
        assert pool._addresses[0][1][1] == port
        return sample, pool

    sample, _ = asyncio.run(go())
    assert sample.ok


def test_hints_name_what_to_do() -> None:
    untrusted = ssl.SSLCertVerificationError(1, "x")
    untrusted.verify_message = "self-signed certificate"
    assert "--ca-file PEM" in _connect_hint(untrusted)
    assert "self-signed certificate" in _connect_hint(untrusted)
    wanted = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] x")
    assert "--client-cert" in _connect_hint(wanted)
    assert "name is not known" in _connect_hint(socket.gaierror(-2, "x"))
    assert _connect_hint(ConnectionRefusedError()) == ""


def test_trust_is_read_before_anything_is_sent() -> None:
    with pytest.raises(Exception, match="no certificate or key can be read"):
        Trust("/no/such/file.pem").context()
    assert Trust(insecure=True).context().verify_mode == ssl.CERT_NONE


def test_a_server_that_tires_of_an_idle_connection_has_not_answered_twice() -> None:
    tired = b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    samples = idle_between(tired)
    assert [sample.error for sample in samples] == ["", ""]
    assert idle_between(answer(b"again"))[0].error == "more than one answer"


def idle_between(unasked: bytes) -> list[Sample]:
    """Two requests to a server that sends this after the first one's answer, and closes."""
    read = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**16)
        writer.write(answer(b"a"))
        if not read.is_set():
            await read.wait()  # the answer is read, and no request is under way
            writer.write(unasked)
        writer.close()

    async def go() -> list[Sample]:
        server = await asyncio.start_server(script, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        pool = Pool(endpoint(url, Payload()), "direct", 20.0)
        first = await pool.send("0" * 8, now())
        connection = pool._idle[0]
        read.set()
        while connection.reusable:
            await asyncio.sleep(0.001)
        second = await pool.send("1" * 8, now())
        pool.close()
        server.close()
        return [first, second]

    return asyncio.run(go())


def test_an_address_that_does_not_answer_is_named_and_is_in_no_requests_time() -> None:
    async def go() -> tuple[Pool, Sample]:
        server = await asyncio.start_server(answering(answer(b"a")), "127.0.0.1", 0)
        with socket.socket() as closed:
            closed.bind(("127.0.0.2", 0))  # nobody listens there
            dead, alive = closed.getsockname(), server.sockets[0].getsockname()
            pool = Pool(endpoint("http://gateway.example", Payload()), "through", 20.0)
            pool._addresses = [(socket.AF_INET, address) for address in (dead, alive)]
            await pool.find()
            sample = await pool.send("0" * 8, now())
        pool.close()
        server.close()
        return pool, sample

    pool, sample = asyncio.run(go())
    assert sample.ok
    assert pool.dead == ("127.0.0.2",)
    assert [address[0] for _, address in pool._addresses] == ["127.0.0.1", "127.0.0.2"]
    (doubt,) = dead_addresses([pool])
    assert "of the addresses of gateway.example 127.0.0.2 did not answer: through" in doubt


def test_a_comment_is_no_chunk_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways send some before there is an answer, and would seem to be quick by that."""
    moments = iter(range(100))
    monkeypatch.setattr(connection, "now", lambda: float(next(moments)))

    class Nowhere(asyncio.Transport):
        def writelines(self, parts: object) -> None:
            """Nobody reads it."""

    async def go() -> Sample:
        sample = Sample("0" * 8, "through", 0.0)
        timed = connection.Http1Connection(asyncio.get_running_loop(), b"x")
        timed.connection_made(Nowhere())
        timed.send((b"",), sample)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
        for text in (b": PROCESSING\n\n", event, b": ping\n\n", event + b": ping\n\n"):
            timed.data_received(head + b"%x\r\n%s\r\n" % (len(text), text))
            head = b""
        timed.data_received(b"0\r\n\r\n")
        return sample

    sample = asyncio.run(go())
    # sent at 0, then one piece a second
    assert (sample.first_byte, sample.first_chunk, sample.end) == (1.0, 2.0, 5.0)
    assert sample.chunks == [2.0, 4.0]
