"""One kept connection to an endpoint, with at most one request in flight, timed.

Moments are stamped when bytes arrive, before they are parsed. Interim answers (1xx) are passed
over. HTTP/1.1 is here, HTTP/2 in `http2.py`.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from halftime.verbs.gateway.extra import need
from halftime.verbs.gateway.reply import NO_REPLY, Reply
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
    until: list[int] = field(default_factory=list)  # body bytes received by each chunk
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

    def begin_with_text(self) -> None:
        """Count a stream from its first text: an empty beginning costs a gateway nothing."""
        if self.reply.first_text and not self.reply.encoding:
            index = bisect.bisect_left(self.until, self.reply.first_text)
            if index < len(self.chunks):
                self.first_chunk = self.chunks[index]

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
    """What both protocols share: the sample that is under way, and how its answer is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop, header: bytes) -> None:
        self._loop = loop
        self._header = header
        self._transport: asyncio.Transport | None = None
        self._sample: Sample | None = None
        self._last: Sample | None = None  # whose answer is complete
        self._waiter: asyncio.Future[None] | None = None
        self._headers: dict[str, str] = {}
        self._received: list[bytes] = []
        self._body = False
        self._now = 0.0
        self._lost = "connection lost"  # what a request fails with that comes too late
        self.used = 0.0  # when its last answer ended
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, parts: Sequence[bytes], sample: Sample) -> asyncio.Future[None]:
        """Write a request; the future ends with its answer or with the connection."""
        waiter = self._loop.create_future()
        self._sample, self._waiter = sample, waiter
        self._headers, self._received = {}, []
        if self.reusable:
            self._write_request(parts, sample)
        else:  # closed since it was opened
            self._finish(self._lost)
        return waiter

    @abstractmethod
    def _write_request(self, parts: Sequence[bytes], sample: Sample) -> None:
        """In the protocol's own form; `sent` is stamped right before it is handed over."""

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
        """Whether such an answer is complete."""
        return False

    def _keep(self, name: bytes, value: bytes) -> None:
        """A header that is reported; its name in lower case."""
        if name in _KEPT_HEADERS:
            self._headers[name.decode()] = value.decode("latin-1")
        if name == self._header and self._sample:
            with contextlib.suppress(ValueError):
                self._sample.reported = float(value) * 1e-3

    def _pass_over(self, sample: Sample) -> None:
        """An interim answer: the final one is still to come."""
        sample.interim += 1
        sample.status, sample.first_byte, self._headers = 0, 0.0, {}

    def _take(self, sample: Sample, data: bytes) -> None:
        """A piece of the body.

        A comment of a stream, by which gateways keep connections alive before there is an answer,
        is no chunk of it.
        """
        self._received.append(data)
        sample.received += len(data)
        if _is_comment(data):
            return
        self._body = True
        if not sample.first_chunk:
            sample.first_chunk = self._now

    def _stamp_chunk(self) -> None:
        """All of the body that came at once is one chunk."""
        if self._body and self._sample:
            self._body = False
            self._sample.chunks.append(self._now)
            self._sample.until.append(self._sample.received)

    def _complete(self, sample: Sample) -> None:
        sample.end = self._now
        sample.closes = not self.reusable
        self._stamp_chunk()
        self._finish("")

    def _finish(self, error: str) -> None:
        if self._sample:
            self._sample.end = self.used = self._sample.end or now()
            self._sample.error = error
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        self._last, self._sample, self._waiter = self._sample or self._last, None, None


class Http1Connection(TimedConnection):
    """HTTP/1.1, by httptools."""

    def __init__(self, loop: asyncio.AbstractEventLoop, header: bytes) -> None:
        super().__init__(loop, header)
        self._parser = _parser(self)

    def _write_request(self, parts: Sequence[bytes], sample: Sample) -> None:
        assert self._transport is not None
        sample.sent = sample.sent or now()
        self._transport.writelines(parts)

    def data_received(self, data: bytes) -> None:
        """asyncio's call: stamp the time first, then parse."""
        self._now = now()
        if self._sample is None:
            return self._not_asked_for(data)
        try:
            self._parser.feed_data(data)
        except (need("httptools").HttpParserError, need("httptools").HttpParserUpgrade):
            return self.close(NOT_HTTP)
        return self._stamp_chunk()

    def _not_asked_for(self, data: bytes = b"") -> None:
        """Bytes while no request is under way: what follows on this connection is not known.

        A server that tires of an idle connection may say so with 408 (RFC 9110, 15.5.9).
        """
        if self._last and not _TIRED.match(data):
            self._last.error = self._last.error or "more than one answer"
        if not self._last:
            self._lost = NOT_HTTP  # a server that speaks first
        self.close()

    def on_message_begin(self) -> None:
        if self._sample is None:
            return self._not_asked_for()
        self._sample.first_byte = self._sample.first_byte or self._now
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that are reported."""
        if self._sample:
            self._keep(name.lower(), value)

    def on_headers_complete(self) -> None:
        if self._sample:
            self._sample.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if self._sample:
            self._take(self._sample, data)

    def on_message_complete(self) -> None:
        """One answer has ended; the final one unless its status is 1xx."""
        sample = self._sample
        if sample is None:
            return None
        if sample.status < 200:
            return self._pass_over(sample)
        self.reusable = self.reusable and self._parser.should_keep_alive()
        return self._complete(sample)

    def _ends_with_the_connection(self) -> bool:
        """One without a length, as HTTP/1.0 has it."""
        framed = self._headers.keys() & {"content-length", "transfer-encoding"}
        return bool(self._sample and self._sample.status >= 200 and not framed)


def _is_comment(data: bytes) -> bool:
    """Nothing else (WHATWG HTML, 9.2.6); no JSON begins so."""
    return data[:1] == b":" and all(line[:1] in (b":", b"") for line in data.splitlines())


def _parser(connection: Http1Connection) -> HttpResponseParser:
    """As strict as usual clients are: they take lines that end with LF alone (RFC 9112, 2.2)."""
    parser: HttpResponseParser = need("httptools").HttpResponseParser(connection)
    if hasattr(parser, "set_dangerous_leniencies"):  # httptools 0.7
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
    return parser


NOT_HTTP = "not HTTP/1.1"
_TIRED = re.compile(rb"HTTP/1\.[01] 408 ")
_KEPT_HEADERS = {
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"location",
    b"retry-after",
    b"transfer-encoding",
}
