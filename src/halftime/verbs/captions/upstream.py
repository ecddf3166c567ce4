"""A model behind an OpenAI-shaped endpoint: where it is, its key, its prices, and asking it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from halftime.base.errors import BadInput

FAILURES = (aiohttp.ClientError, TimeoutError, OSError)  # an upstream's, of any kind
_COUNTS = re.compile(rb'"(prompt|completion|input|output)_tokens"\s*:\s*(\d+)')
_TAIL = 8192  # bytes at an answer's end that hold its token counts
_CONNECT_SECONDS = 10
# Of one connection, not of a message (RFC 9110, 7.6.1); lengths are written anew.
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
}
RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Upstream:
    """`url` ends with /v1; `key` is never shown.

    Prices in one currency: of a request, and of a million tokens in and out.
    """

    model: str
    url: str
    key: str = ""
    price: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0

    def __repr__(self) -> str:
        return f"Upstream({self.model!r}, {self.url!r})"

    def headers(self, headers: dict[str, str]) -> dict[str, str]:
        """A client's headers, with this upstream's own key where it has one."""
        return headers | ({"authorization": f"Bearer {self.key}"} if self.key else {})

    def spend(self, answer: bytes) -> float:
        """What an answer cost, by the token counts near its end and the price of a request."""
        counts = {name: int(number) for name, number in _COUNTS.findall(answer[-_TAIL:])}
        read = counts.get(b"prompt", counts.get(b"input", 0))
        written = counts.get(b"completion", counts.get(b"output", 0))
        return self.price + 1e-6 * (self.price_in * read + self.price_out * written)


def check_prices(small: Upstream, large: Upstream) -> None:
    """Raises BadInput where every answer of the small model costs more: nothing can be saved."""
    pairs = [
        (small.price, large.price),
        (small.price_in, large.price_in),
        (small.price_out, large.price_out),
    ]
    if any(ours > theirs for ours, theirs in pairs) and all(a >= b for a, b in pairs):
        raise BadInput(
            f"the small model {small.model} costs more than the large model {large.model}, so that "
            "routing saves nothing. Exchange --small and --large, or correct the prices."
        )


def key_from(variable: str | None) -> str:
    """A key from the environment. Raises BadInput where the variable is not set."""
    if variable is None:
        return ""
    if not os.environ.get(variable):
        raise BadInput(
            f"the environment variable {variable} is not set. Set it to the key, or leave the "
            "option out."
        )
    return os.environ[variable]


def end_to_end(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on, in either direction."""
    return [
        (name, value)
        for name, value in headers
        if name.decode("latin-1").lower() not in _HOP_BY_HOP
    ]


class UpstreamBroken(Exception):
    """An upstream stopped in the middle of its answer."""

    def __init__(self, model: str, error: Exception) -> None:
        super().__init__(f"{model} stopped in the middle of an answer: {type(error).__name__}.")
        self.model = model


@dataclass
class _Connection:
    """What aiohttp says of the connection that one request went over."""

    reused: bool = False


class UpstreamClient:
    """One HTTP client for all requests: a new one for each costs tens of milliseconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds without a byte from an upstream
        self._session: aiohttp.ClientSession | None = None

    async def open(
        self, upstream: Upstream, method: str, path: str, headers: RawHeaders, body: bytes
    ) -> aiohttp.ClientResponse:
        """The start of an upstream's answer. Raises one of FAILURES.

        An idle connection may have been closed by the upstream just before the request went out.
        aiohttp sends only idempotent methods again, so a POST is sent once more here. On a new
        connection the upstream has read the request and may have worked on it.
        """
        connection = _Connection()
        text = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}

        def request() -> Awaitable[aiohttp.ClientResponse]:
            return self._opened_session().request(
                method,
                upstream.url + path,
                data=body or None,
                headers=upstream.headers(text),
                allow_redirects=False,
                trace_request_ctx=connection,
            )

        try:
            return await request()
        except (aiohttp.ServerDisconnectedError, OSError) as error:
            if not connection.reused or not _unanswered(error):
                raise
        return await request()

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_SECONDS, sock_read=self.timeout
                ),
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                trace_configs=[trace],
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


async def pieces(answer: aiohttp.ClientResponse, model: str) -> AsyncIterator[bytes]:
    """An answer's body as it comes. Raises UpstreamBroken."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except FAILURES as error:
        raise UpstreamBroken(model, error) from error


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object
) -> None:
    context.trace_request_ctx.reused = True  # a _Connection


def _unanswered(error: Exception) -> bool:
    """Whether not a byte of an answer came.

    A timeout does not mean a closed connection; aiohttp gives half a head as a `message` that is
    not text.
    """
    return not isinstance(error, TimeoutError) and isinstance(getattr(error, "message", ""), str)
