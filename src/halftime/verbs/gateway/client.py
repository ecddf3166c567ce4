"""A fast HTTP/1.1 client on asyncio.Protocol and httptools: one timed request per connection.

Interim answers (1xx) are passed over. Each final one is read (`reply`) once it is stamped.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import math
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from halftime.verbs.gateway.endpoint import Endpoint
from halftime.verbs.gateway.extra import need
from halftime.verbs.gateway.reply import NO_REPLY, Reply, read
from halftime.verbs.gateway.timer import now

if TYPE_CHECKING:
    from httptools import HttpResponseParser


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
    interim: int = 0  # answers of 1xx before the final one
    received: int = 0  # body bytes
    chunks: list[float] = field(default_factory=list)
    reported: float | None = None  # the gateway's own overhead header, seconds
    retry_after: float | None = None  # seconds, of a 429 or 503
    fresh: bool = False  # on a connection that was opened for it
    idle: float = 0.0  # seconds that its connection had not been used
    closes: bool = False  # the server ends the connection with this answer
    submitted: float = 0.0  # a job's first answer is complete
    started: float = 0.0  # it is seen to run
    reply: Reply = NO_REPLY
    error: str = ""
    hint: str = ""  # what to do about the error, where that is known

    @property
    def ok(self) -> bool:
        """Answered with 2xx, with what was asked for."""
        return not self.error and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """By a limit on the rate."""
        return self.status == 429 or (self.status == 503 and self.retry_after is not None)

    @property
    def unanswered(self) -> bool:
        """No answer at all, not even a bad one."""
        return not self.ok and not self.status

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
        self._parser = _parser(self)
        self._transport: asyncio.Transport | None = None
        self._sample: Sample | None = None
        self._last: Sample | None = None  # whose answer is complete
        self._waiter: asyncio.Future[None] | None = None
        self._headers: dict[str, str] = {}
        self._received: list[bytes] = []
        self._body = False
        self._now = 0.0
        self.used = 0.0  # when its last answer ended
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, parts: Sequence[bytes], sample: Sample) -> asyncio.Future[None]:
        """Write a request; the future ends with its answer or with the connection."""
        assert self._transport is not None
        self._sample, self._waiter = sample, self._loop.create_future()
        self._headers, self._received = {}, []
        sample.sent = sample.sent or now()
        self._transport.writelines(parts)
        return self._waiter

    def answer(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the answer that was completed last."""
        return self._headers, b"".join(self._received)

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
        if self._sample is None:
            return self._not_asked_for(data)
        try:
            self._parser.feed_data(data)
        except (need("httptools").HttpParserError, need("httptools").HttpParserUpgrade):
            return self.close(_NOT_HTTP)
        if self._body and self._sample:
            self._body = False
            self._sample.chunks.append(self._now)
        return None

    def _not_asked_for(self, data: bytes = b"") -> None:
        """Bytes while no request is under way: what follows on this connection is not known.

        A server that tires of an idle connection may say so with 408 (RFC 9110, 15.5.9).
        """
        if self._last and not _TIRED.match(data):
            self._last.error = self._last.error or "more than one answer"
        self.close()

    def on_message_begin(self) -> None:
        if self._sample is None:
            return self._not_asked_for()
        self._sample.first_byte = self._sample.first_byte or self._now
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that are reported."""
        if self._sample is None:
            return
        lower = name.lower()
        if lower in _KEPT_HEADERS:
            self._headers[lower.decode()] = value.decode("latin-1")
        if lower == self._header:
            with contextlib.suppress(ValueError):
                self._sample.reported = float(value) * 1e-3

    def on_headers_complete(self) -> None:
        if self._sample:
            self._sample.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        sample = self._sample
        if sample:
            self._body = True
            self._received.append(data)
            sample.received += len(data)
            if not sample.first_chunk:
                sample.first_chunk = self._now

    def on_message_complete(self) -> None:
        """One answer has ended; the final one unless its status is 1xx."""
        sample = self._sample
        if sample is None:
            return
        if sample.status < 200:  # the final answer is still to come
            sample.interim += 1
            sample.status, sample.first_byte, self._headers = 0, 0.0, {}
            return
        sample.end = self._now
        self.reusable = self.reusable and self._parser.should_keep_alive()
        sample.closes = not self.reusable
        if self._body:
            self._body = False
            sample.chunks.append(self._now)
        self._finish("")

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed: the end of an answer that has no other, else a failure."""
        self.reusable = False
        self._now = now()
        if self._sample and exc is None and self._ends_with_the_connection():
            self._sample.end, self._sample.closes = self._now, True
            return self._finish("")
        status = self._sample.status if self._sample else 0
        # a refusal that is cut short is that refusal
        return self._finish("" if status >= 300 else "cut short" if status else "connection lost")

    def _ends_with_the_connection(self) -> bool:
        """An answer without a length, as HTTP/1.0 has it."""
        framed = self._headers.keys() & {"content-length", "transfer-encoding"}
        return bool(self._sample and self._sample.status >= 200 and not framed)

    def _finish(self, error: str) -> None:
        if self._sample:
            self._sample.end = self.used = self._sample.end or now()
            self._sample.error = error
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        self._last, self._sample, self._waiter = self._sample or self._last, None, None


def _parser(connection: TimedConnection) -> HttpResponseParser:
    """As strict as usual clients are: they take lines that end with LF alone (RFC 9112, 2.2)."""
    parser: HttpResponseParser = need("httptools").HttpResponseParser(connection)
    if hasattr(parser, "set_dangerous_leniencies"):  # httptools 0.7
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
    return parser


_NOT_HTTP = "not HTTP/1.1"
_TIRED = re.compile(rb"HTTP/1\.[01] 408 ")
_KEPT_HEADERS = {
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"location",
    b"retry-after",
    b"transfer-encoding",
}
_WANTS_CERTIFICATE = "it may want a certificate of yours: --client-cert PEM, --client-key PEM"
_IDLE = 0.25  # seconds; a server that closes a connection sooner after its last answer drops it
_ANSWERS_WITHIN = 1.0  # seconds; an address that takes longer is tried after the others
_LONGEST_WAIT = 600.0  # seconds of a Retry-After that are believed
POLL_SECONDS = 0.05  # between two questions after a job


class Pool:
    """Connections to one endpoint, the one last used first."""

    def __init__(
        self,
        endpoint: Endpoint,
        arm: str,
        timeout: float,
        *,
        allowance: Allowance | None = None,
        poll: float = POLL_SECONDS,
    ) -> None:
        self.endpoint, self.arm, self._timeout = endpoint, arm, timeout
        self.allowance = allowance or Allowance()
        self.poll = poll
        self._loop = asyncio.get_running_loop()
        self._idle: list[TimedConnection] = []
        self._addresses: list[tuple[int, tuple[object, ...]]] = []
        self.dead: tuple[str, ...] = ()  # addresses of the name that do not answer
        self._context = endpoint.trust.context() if endpoint.tls else None
        self._turn = 0

    async def send(self, number: str, intended: float) -> Sample:
        """One request, timed; never raises for what the other side does."""
        sample = Sample(number, self.arm, intended, begun=now())
        self.allowance.spend()
        parts = self.endpoint.parts(number, self._turn)
        self._turn += 1
        connection = await self._exchange(parts, sample)
        if connection and not sample.error:
            self._read(sample, connection)
            if sample.reply.state:
                await self._follow(sample)
        return sample

    async def _exchange(self, parts: Sequence[bytes], sample: Sample) -> TimedConnection | None:
        """Send and receive; once more where a kept connection had been closed meanwhile."""
        connection = await self._attempt(parts, sample)
        if sample.idle >= _IDLE and sample.error == "connection lost":
            # A server may close an idle connection at any moment: nobody is to blame.
            sample.error, sample.end = "", 0.0
            connection = await self._attempt(parts, sample)
        return connection

    async def _attempt(self, parts: Sequence[bytes], sample: Sample) -> TimedConnection | None:
        connection = self._take()
        sample.idle = now() - connection.used if connection else 0.0
        try:
            if connection is None:
                sample.fresh = True
                connection = (await asyncio.wait_for(self.open(), self._timeout))[0]
        except (OSError, TimeoutError) as error:
            sample.error, sample.end = f"connect: {type(error).__name__}", now()
            sample.hint = _connect_hint(error)
            return None
        in_use = connection
        expiry = self._loop.call_later(self._timeout, lambda: in_use.close("timeout"))
        try:
            await connection.send(parts, sample)
        except asyncio.CancelledError:
            connection.close("cancelled")
            raise
        finally:
            expiry.cancel()
        if sample.error == _NOT_HTTP:
            sample.hint = "it speaks HTTP/2 alone, or no HTTP: halftime speaks HTTP/1.1"
        if sample.error == "connection lost" and self._context and sample.fresh:
            # TLS 1.3 refuses a client after the handshake
            sample.hint = "" if self.endpoint.trust.client_cert else _WANTS_CERTIFICATE
        if connection.reusable:
            self._idle.append(connection)
        elif not sample.error:
            connection.close()
        return connection

    def _read(self, sample: Sample, connection: TimedConnection) -> None:
        headers, body = connection.answer()
        sample.reply = read(self.endpoint.expected, sample.status, headers, body)
        sample.error = sample.error or sample.reply.error
        sample.retry_after = _seconds_of(headers.get("retry-after"))

    async def _follow(self, sample: Sample) -> None:
        """Ask after a job until it is done; the sample then ends with its result."""
        sample.submitted = sample.end
        deadline = sample.end + self._timeout
        while sample.reply.state and not sample.error:
            if sample.reply.running and not sample.started:
                sample.started = sample.end
            if sample.end > deadline:
                sample.error = "timeout"
                return
            if sample.reply.state != "COMPLETED":
                await asyncio.sleep(self.poll)
            self.allowance.spend()
            sample.end = sample.first_byte = sample.first_chunk = 0.0
            connection = await self._exchange(self.endpoint.asking(sample.reply.follow), sample)
            if connection and not sample.error:
                self._read(sample, connection)
        sample.started = sample.started or sample.end

    def _take(self) -> TimedConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def open(self) -> tuple[TimedConnection, float, float]:
        """A fresh connection, and the seconds of TCP connect and TLS handshake (0 without TLS).

        The addresses of the name are tried in turn; the one that answers is tried first from then
        on.
        """
        plain, seconds = await self._connected()
        connected = now()
        name = self.endpoint.host if self._context else None
        header = self.endpoint.overhead_header.lower().encode()
        _, connection = await self._loop.create_connection(
            lambda: TimedConnection(self._loop, header),
            sock=plain,
            ssl=self._context,
            server_hostname=name,
        )
        return connection, seconds, (now() - connected) if self._context else 0.0

    async def _connected(self) -> tuple[socket.socket, float]:
        failure: OSError = OSError("the name has no address")
        addresses = await self._resolved()
        for index, (family, address) in enumerate(addresses):
            plain = socket.socket(cast("socket.AddressFamily", family), socket.SOCK_STREAM)
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            start = now()
            try:
                async with asyncio.timeout(self._timeout / len(addresses)):
                    await self._loop.sock_connect(plain, address)
            except OSError as error:  # TimeoutError is one
                plain.close()
                failure = error
                continue
            except BaseException:
                plain.close()
                raise
            if index:
                addresses.insert(0, addresses.pop(index))
            return plain, now() - start
        raise failure

    async def find(self) -> None:
        """Resolve the name, and find an address that answers, so that neither is in the time of a
        request. Where that fails the requests will say so."""
        with contextlib.suppress(OSError, TimeoutError):
            addresses = await self._resolved()
            for index, address in enumerate(list(addresses) if len(addresses) > 1 else ()):
                try:
                    async with asyncio.timeout(min(_ANSWERS_WITHIN, self._timeout)):
                        await self._probe(*address)
                except OSError:
                    continue
                addresses.insert(0, addresses.pop(index))
                self.dead = tuple(str(dead[1][0]) for dead in addresses[1 : index + 1])
                return

    async def _probe(self, family: int, address: tuple[object, ...]) -> None:
        with socket.socket(cast("socket.AddressFamily", family), socket.SOCK_STREAM) as plain:
            plain.setblocking(False)
            await self._loop.sock_connect(plain, address)

    async def _resolved(self) -> list[tuple[int, tuple[object, ...]]]:
        # Once, so that name resolution is in no request's time.
        if not self._addresses:
            infos = await self._loop.getaddrinfo(
                self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
            )
            self._addresses = [
                (int(family), cast("tuple[object, ...]", address)) for family, *_, address in infos
            ]
        return self._addresses

    async def warm(self, count: int) -> None:
        """Open connections ahead, so that a burst does not pay for them.

        Where that fails the requests will say so.
        """
        with contextlib.suppress(OSError, TimeoutError):
            for _ in range(count - len(self._idle)):
                self._idle.append((await asyncio.wait_for(self.open(), self._timeout))[0])

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


@dataclass
class Allowance:
    """How many requests may be sent, over both arms; None: as many as the loads take."""

    most: int | None = None
    spent: int = 0

    def spend(self) -> None:
        """One more has been sent."""
        self.spent += 1

    @property
    def left(self) -> float:
        """Requests that may still be sent."""
        return math.inf if self.most is None else self.most - self.spent


def _seconds_of(retry_after: str | None) -> float | None:
    """Of a Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (moment - datetime.now(UTC)).total_seconds() if moment.tzinfo else 0.0
    return min(max(0.0, seconds), _LONGEST_WAIT) if math.isfinite(seconds) else None


def _connect_hint(error: OSError) -> str:
    """What to do about a connection that cannot be had."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message.rstrip('.')}): name the "
            "authority that signed it with --ca-file PEM, or look away with --insecure"
        )
    if isinstance(error, ssl.SSLError):
        if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
            return _WANTS_CERTIFICATE
        if "NO_APPLICATION_PROTOCOL" in str(error):
            return "it speaks no HTTP/1.1, and halftime nothing else"
        return "TLS failed: is it https at all?"
    if isinstance(error, socket.gaierror):
        return "its name is not known: is it spelled rightly?"
    return ""
