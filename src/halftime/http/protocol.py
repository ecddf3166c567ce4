"""One connection, with limits that hold before anything of a request is known: how large its head
may be, how long it may take, and how many connections there are.

Of those that are too many the ones that say nothing go first, so that silence locks nobody out. A
client that closes its sending side alone still gets its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from halftime.http.errors import JSON, ApiError

logger = logging.getLogger("halftime.http")

MOST_HEAD = 32 * 2**10  # bytes of the request line and all headers, trailers included
MOST_HEADERS = 128
HEAD_SECONDS = 10.0  # from a connection's begin, or a request's first byte, to the head's end
_LINGER_SECONDS = 1.0  # for a client that still sends to read why it was refused
_QUIET_SECONDS = 60.0  # between two log lines about too many connections
_LOOKS = (0.02, 0.1, 0.5, 2.0)  # seconds after a probe, when its answer is looked for
_TCP_CLOSED = 7  # Linux's number for the state of a connection that the other side has reset
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
_COMMENT_CHUNK = b"3\r\n:\n\n\r\n"  # server-sent events: nothing, in chunked encoding


@dataclass
class ConnectionLimits:
    """What holds for all connections of one server. Seconds and bytes."""

    connections: int = 1000
    head: int = MOST_HEAD
    head_seconds: float = HEAD_SECONDS
    last_told: float = -_QUIET_SECONDS  # when the log was told of too many connections


def protocol_class(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol for uvicorn, with these limits."""
    return type("LimitedProtocol", (GuardedProtocol,), {"limits": limits})


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits."""

    limits = ConnectionLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun = time.monotonic()
        self._head_size = 0  # bytes of this request's head so far, in complete lines
        self._raw_size = 0  # all bytes since the head began, until it is complete
        self._header_count = 0
        self._in_head = True  # no complete head since the last request ended
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal: ApiError | None = None
        self._half_closed = False

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its clock starts; where it is one too many, another one has to go, or this one."""
        super().connection_made(transport)
        self._start_head_timer()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def _make_room(self) -> None:
        now = time.monotonic()
        if now - self.limits.last_told >= _QUIET_SECONDS:
            self.limits.last_told = now
            logger.warning(
                "%d connections are open, the limit: those that say nothing are closed",
                self.limits.connections,
            )
        peers = [peer for peer in self.connections if peer is not self]
        idle = [peer for peer in peers if isinstance(peer, GuardedProtocol) and peer.idle]
        if idle:
            min(idle, key=lambda peer: (peer.served, peer._begun)).transport.abort()
            return
        self.refuse(
            ApiError(503, "Too many connections.", code="too_many_connections", retry_after=1.0)
        )

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def served(self) -> bool:
        """Whether it ever sent a request."""
        return self.cycle is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    # ---- the head

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless what it has is too large already."""
        if self._refusal is not None:
            return
        if self._in_head:
            self._raw_size += len(data)
        if self._in_head and self.idle:
            self._start_head_timer()
        super().data_received(data)
        if self._in_head and self._raw_size > self.limits.head:
            self.refuse(_head_too_large(self.limits.head))

    def on_message_begin(self) -> None:
        self._head_size = self._header_count = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.limits.head or self._header_count > MOST_HEADERS:
            self._refusal = _head_too_large(self.limits.head)
            raise ValueError("the head is too large")  # ends the parser, which says so

    def on_headers_complete(self) -> None:
        self._in_head, self._raw_size = False, 0
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self._raw_size:
            self.transport.abort()  # not a word: there is nothing to answer
            return
        seconds = self.limits.head_seconds
        self.refuse(
            ApiError(408, f"The headers did not arrive within {seconds:g} s.", code="head_timeout")
        )

    # ---- refusals

    def send_400_response(self, msg: str) -> None:
        """What the parser does not understand, in OpenAI's shape."""
        refusal = self._refusal or ApiError(400, msg, code="invalid_http")
        self._refusal = None
        self.refuse(refusal)

    def refuse(self, error: ApiError) -> None:
        """Answer without asking the application, and close. Where an answer is on its way already
        the connection just ends."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = error
        self._stop_head_timer()
        if not self.idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = error.body()
        headers = {
            "content-type": JSON,
            "content-length": str(len(body)),
            **error.headers(),
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {error.status} \r\n{lines}\r\n".encode() + body)
        # A client that is still sending would lose the answer if the connection were closed now.
        with contextlib.suppress(NotImplementedError, OSError):
            self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    # ---- a client that sends no more

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client may close its sending side and wait for the answer, or have left: the next bytes
        to it tell, since whoever left resets the connection."""
        waits = not self.idle and not self.cycle.more_body and not self.cycle.disconnected
        if not waits or not hasattr(socket, "TCP_INFO") or not self._probe():
            return None
        self._half_closed = True
        for seconds in _LOOKS:
            self.loop.call_later(seconds, self._look_for_reset)
        return True

    def _probe(self) -> bool:
        """Send what means nothing; False where nothing may be sent."""
        if not self.cycle.response_started:
            if self.scope.get("http_version") != "1.1":
                return False
            self.transport.write(_PROCESSING)
        elif self.cycle.chunked_encoding:
            self.transport.write(_COMMENT_CHUNK)
        return True

    def _look_for_reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or connection is None:
            return
        try:
            with socket.socket(fileno=socket.dup(connection.fileno())) as copy:
                state = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            state = _TCP_CLOSED
        if state == _TCP_CLOSED:
            self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed and not self.pipeline and not self.transport.is_closing():
            self.transport.close()


def _head_too_large(most: int) -> ApiError:
    message = (
        f"The request's head is larger than {most // 1024} KiB or has more than {MOST_HEADERS} "
        "headers."
    )
    return ApiError(431, message, code="head_too_large")
