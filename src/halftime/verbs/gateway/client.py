"""A fast client: a pool of connections to one endpoint, one timed request on each.

Each answer is read (`reply`) once it is stamped.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import math
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from halftime.verbs.gateway.connection import NOT_HTTP, Http1Connection, Sample, TimedConnection
from halftime.verbs.gateway.endpoint import Endpoint
from halftime.verbs.gateway.http2 import NOT_HTTP2, Http2Connection, check_installed
from halftime.verbs.gateway.reply import read
from halftime.verbs.gateway.timer import now

_SPEAKS_HTTP2 = "where it speaks HTTP/2 alone, ask it so with --http2 direct, through or both"
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
        if endpoint.http2:
            check_installed()
        self._context = endpoint.trust.context(endpoint.http2) if endpoint.tls else None
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
                connection = await self._opened()
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
        if sample.error == NOT_HTTP:
            sample.hint = _SPEAKS_HTTP2
        if sample.error == NOT_HTTP2:
            sample.hint = "it does not speak HTTP/2: leave --http2 out for it"
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
        sample.begin_with_text()
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
        transport, connection = await self._loop.create_connection(
            lambda: self._connection(header), sock=plain, ssl=self._context, server_hostname=name
        )
        if self.endpoint.http2 and self._context:
            _check_agreed(transport)
        return connection, seconds, (now() - connected) if self._context else 0.0

    def _connection(self, header: bytes) -> TimedConnection:
        if self.endpoint.http2:
            return Http2Connection(self._loop, header, secure=self.endpoint.tls)
        return Http1Connection(self._loop, header)

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

    async def _opened(self) -> TimedConnection:
        """As `open`, within the timeout. Not by wait_for: in Python 3.11 that drops a cancellation
        which comes as the connection is made, and Ctrl-C would wait for the answer."""
        async with asyncio.timeout(self._timeout):
            return (await self.open())[0]

    async def warm(self, count: int) -> None:
        """Open connections ahead, so that a burst does not pay for them.

        Where that fails the requests will say so.
        """
        with contextlib.suppress(OSError, TimeoutError):
            for _ in range(count - len(self._idle)):
                self._idle.append(await self._opened())

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


class _NoHttp2(OSError):
    """A server of https agreed to something else."""


def _check_agreed(transport: asyncio.BaseTransport) -> None:
    """Raises _NoHttp2."""
    connection = transport.get_extra_info("ssl_object")
    if connection and connection.selected_alpn_protocol() != "h2":
        transport.close()
        raise _NoHttp2("no HTTP/2")


def _connect_hint(error: OSError) -> str:
    """What to do about a connection that cannot be had."""
    if isinstance(error, _NoHttp2):
        return "it speaks no HTTP/2 over TLS: leave --http2 out for it"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message.rstrip('.')}): name the "
            "authority that signed it with --ca-file PEM, or look away with --insecure"
        )
    if isinstance(error, ssl.SSLError):
        if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
            return _WANTS_CERTIFICATE
        if "NO_APPLICATION_PROTOCOL" in str(error):
            return "it does not speak the HTTP that it is asked in. " + _SPEAKS_HTTP2.capitalize()
        return "TLS failed: is it https at all?"
    if isinstance(error, socket.gaierror):
        return "its name is not known: is it spelled rightly?"
    return ""
