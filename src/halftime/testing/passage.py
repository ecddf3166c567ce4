"""One request on its way through a planted proxy: what a fault can do with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from halftime.verbs.gateway.extra import need

if TYPE_CHECKING:
    from halftime.testing.proxies import PlantedProxy

_READ = 2**18


class Arrival(NamedTuple):
    """Bytes of an answer as they came, and what they hold of its body, without its chunking."""

    raw: bytes
    body: bytes


class _AnswerParser:
    """What httptools calls while an upstream's answer is parsed."""

    def __init__(self) -> None:
        self._parser = need("httptools").HttpResponseParser(self)
        self._body: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> Arrival:
        self._parser.feed_data(data)
        body, self._body = b"".join(self._body), []
        return Arrival(data, body)


class Passage:
    """A client's connection and the upstream's behind it, at one request after the other."""

    def __init__(
        self, proxy: PlantedProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.proxy, self.reader, self._writer = proxy, reader, writer
        self.number, self.request = 0, b""
        self.closed = False
        self._upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def begin(self, number: int, request: bytes) -> None:
        """The next request: the proxy's `number`-th, from 0."""
        self.number, self.request = number, request

    async def passing(self) -> None:
        """Forward the request, and the answer as it comes."""
        async for arrival in self.answer():
            self.write(arrival.raw)

    async def answer(self, request: bytes | None = None) -> AsyncIterator[Arrival]:
        """Send the request on, as it came or another one; the answer piece by piece."""
        reader, writer = await self._connected()
        writer.write(self.request if request is None else request)
        parser = _AnswerParser()
        while not parser.complete:
            data = await reader.read(_READ)
            if not data:
                self.disconnect()
                return
            yield parser.feed(data)

    async def whole_answer(self, request: bytes | None = None) -> tuple[bytes, bytes]:
        """The answer in full: its head, and its body without chunking."""
        arrivals = [arrival async for arrival in self.answer(request)]
        head = b"".join(arrival.raw for arrival in arrivals).partition(b"\r\n\r\n")[0]
        return head, b"".join(arrival.body for arrival in arrivals)

    async def events(self) -> list[bytes]:
        """The events of a streamed answer, once the last one is there."""
        _, body = await self.whole_answer()
        return [event + b"\n\n" for event in body.split(b"\n\n") if event]

    async def each_event(self) -> AsyncIterator[bytes]:
        """The events of a streamed answer, as they come."""
        pending = b""
        async for arrival in self.answer():
            *events, pending = (pending + arrival.body).split(b"\n\n")
            for event in events:
                yield event + b"\n\n"

    async def hold(self) -> None:
        """Wait as long as the proxy is set to."""
        await self.proxy.hold(self.proxy.seconds)

    def write(self, data: bytes) -> None:
        """To the client."""
        self._writer.write(data)

    def write_answer(
        self, status: str, body: bytes, *lines: str, length: int | None = None
    ) -> None:
        """A whole answer to the client; `length` where the one that it names is another."""
        size = len(body) if length is None else length
        head = "".join(
            f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"Content-Length: {size}")
        )
        self.write(head.encode() + b"\r\n" + body)

    def write_json(self, status: str, value: object, *lines: str) -> None:
        """A whole JSON answer."""
        self.write_answer(
            status, json.dumps(value).encode(), "Content-Type: application/json", *lines
        )

    def write_events(self, events: list[bytes], end: bytes = b"0\r\n\r\n") -> None:
        """A stream of these events in one write, ended as HTTP has it or with `end`."""
        self.write(EVENTS_HEAD + b"".join(map(chunk, events)) + end)

    def close(self) -> None:
        """End the client's connection, once what was written is sent."""
        self.closed = True
        self.disconnect()
        self._writer.close()

    def disconnect(self) -> None:
        """End the upstream's connection: the next request opens a new one."""
        if self._upstream:
            self._upstream[1].close()
        self._upstream = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream is None or self._upstream[1].is_closing():
            self._upstream = await asyncio.open_connection(*self.proxy.address, limit=2**24)
        return self._upstream


EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """In HTTP's chunked framing."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
