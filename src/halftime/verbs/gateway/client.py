"""A fast HTTP/1.1 client on asyncio.Protocol and httptools: one timed request per connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from halftime.verbs.gateway.endpoint import Endpoint
from halftime.verbs.gateway.extra import need
from halftime.verbs.gateway.timer import now


@dataclass(slots=True)
class Sample:
    """One request. Moments are on `timer.now`; `intended` is when it should have been sent."""

    id: str
    arm: str
    intended: float
    begun: float = 0.0  # the generator got to it
    sent: float = 0.0  # handed to the socket
    first_byte: float = 0.0
    first_chunk: float = 0.0  # first bytes of the body
    end: float = 0.0
    status: int = 0
    received: int = 0  # body bytes
    chunks: list[float] = field(default_factory=list)
    reported: float | None = None  # the gateway's own overhead header, seconds
    error: str = ""

    @property
    def ok(self) -> bool:
        """Answered with a status below 400."""
        return not self.error and 0 < self.status < 400

    @property
    def latency(self) -> float:
        """Intended send to last byte."""
        return self.end - self.intended

    @property
    def ttft(self) -> float:
        """Intended send to first body bytes."""
        return (self.first_chunk or self.end) - self.intended


class TimedConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop, header: bytes) -> None:
        self._loop = loop
        self._header = header
        self._parser = need("httptools").HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._sample: Sample | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._body = False
        self._now = 0.0
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, parts: Sequence[bytes], sample: Sample) -> asyncio.Future[None]:
        """Write a request; the future ends with its answer or with the connection."""
        assert self._transport is not None
        self._sample, self._waiter = sample, self._loop.create_future()
        sample.sent = now()
        self._transport.writelines(parts)
        return self._waiter

    def close(self, reason: str = "") -> None:
        """Close; a request in flight ends with `reason` as its error."""
        self.reusable = False
        if reason:
            self._finish(reason)
        if self._transport:
            self._transport.abort() if reason else self._transport.close()

    def data_received(self, data: bytes) -> None:
        """asyncio's call: stamp the time first, then parse."""
        self._now = now()
        sample = self._sample
        if sample is None:
            return None
        if not sample.first_byte:
            sample.first_byte = self._now
        try:
            self._parser.feed_data(data)
        except need("httptools").HttpParserError:
            return self.close("not HTTP")
        if self._body:
            self._body = False
            sample.chunks.append(self._now)
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._sample and name.lower() == self._header:
            with contextlib.suppress(ValueError):
                self._sample.reported = float(value) * 1e-3

    def on_body(self, data: bytes) -> None:
        sample = self._sample
        if sample:
            self._body = True
            sample.received += len(data)
            if not sample.first_chunk:
                sample.first_chunk = self._now

    def on_message_complete(self) -> None:
        if self._sample:
            self._sample.end = self._now
            self._sample.status = self._parser.get_status_code()
            self.reusable = self._parser.should_keep_alive()
            if self._body:
                self._body = False
                self._sample.chunks.append(self._now)
            self._finish("")

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._finish("connection lost")

    def _finish(self, error: str) -> None:
        if self._sample and error:
            self._sample.error, self._sample.end = error, now()
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        self._sample = self._waiter = None


class Pool:
    """Connections to one endpoint, the one last used first."""

    def __init__(self, endpoint: Endpoint, arm: str, timeout: float) -> None:
        self.endpoint, self.arm, self._timeout = endpoint, arm, timeout
        self._loop = asyncio.get_running_loop()
        self._idle: list[TimedConnection] = []
        self._address: tuple[int, tuple[object, ...]] | None = None
        self._context = (
            ssl.create_default_context(cafile=endpoint.ca_file) if endpoint.tls else None
        )

    async def send(self, number: str, intended: float) -> Sample:
        """One request, timed; never raises for what the other side does."""
        sample = Sample(number, self.arm, intended, begun=now())
        fresh = await self._attempt(sample)
        if not fresh and sample.error == "connection lost" and not sample.first_byte:
            # A server may close an idle connection at any moment: the request is not to blame.
            sample.error = ""
            await self._attempt(sample)
        return sample

    async def _attempt(self, sample: Sample) -> bool:
        """Send once; whether that took a fresh connection."""
        connection, fresh = self._take(), False
        try:
            if connection is None:
                fresh = True
                connection = (await asyncio.wait_for(self.open(), self._timeout))[0]
        except (OSError, TimeoutError) as error:
            sample.error, sample.end = f"connect: {type(error).__name__}", now()
            return fresh
        in_use = connection
        expiry = self._loop.call_later(self._timeout, lambda: in_use.close("timeout"))
        await connection.send(self.endpoint.parts(sample.id), sample)
        expiry.cancel()
        if connection.reusable:
            self._idle.append(connection)
        elif not sample.error:
            connection.close()
        return fresh

    def _take(self) -> TimedConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def open(self) -> tuple[TimedConnection, float, float]:
        """A fresh connection, and the seconds of TCP connect and TLS handshake (0 without TLS)."""
        family, address = await self._resolved()
        plain = socket.socket(cast("socket.AddressFamily", family), socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = now()
        try:
            await self._loop.sock_connect(plain, address)
        except BaseException:
            plain.close()
            raise
        connected = now()
        name = self.endpoint.host if self._context else None
        header = self.endpoint.overhead_header.lower().encode()
        _, connection = await self._loop.create_connection(
            lambda: TimedConnection(self._loop, header),
            sock=plain,
            ssl=self._context,
            server_hostname=name,
        )
        return connection, connected - start, (now() - connected) if self._context else 0.0

    async def _resolved(self) -> tuple[int, tuple[object, ...]]:
        # Once, so that name resolution is in no request's time.
        if self._address is None:
            addresses = await self._loop.getaddrinfo(
                self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
            )
            family, *_, address = addresses[0]
            self._address = family, cast("tuple[object, ...]", address)
        return self._address

    async def warm(self, count: int) -> None:
        """Open connections ahead, so that a burst does not pay for them."""
        for _ in range(count - len(self._idle)):
            self._idle.append((await self.open())[0])

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
