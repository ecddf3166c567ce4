"""An OpenAI-compatible pass-through as a raw ASGI application: one decision a request, bytes
untouched.

Requests for the model named `name` are routed; all others go through as they came. Nothing is
stored between requests but counts, so any process manager may run as many as it likes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halftime.base.extras import optional
from halftime.records.captions import Router
from halftime.verbs.captions.compare import same, text_of
from halftime.verbs.captions.drift import Drift
from halftime.verbs.captions.metrics import Metrics
from halftime.verbs.captions.request import MOST_SECONDS, asked, choose, warm_up
from halftime.verbs.captions.router import Decision
from halftime.verbs.captions.upstream import Upstream

if TYPE_CHECKING:
    import aiohttp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
Judge = Callable[[bytes, str, str], float]
"""picture, prompt and answer -> how good the answer is."""

logger = logging.getLogger("halftime.captions")
MOST_BODY = 64 * 2**20  # bytes
TAIL = 8192  # bytes at an answer's end that hold its token counts
# Of one connection, not of a message (RFC 9110, 7.6.1); lengths are written anew.
HOP = {
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


@dataclass(frozen=True)
class ShellSettings:
    """`shadow` is the share of the small model's requests that the large one answers too, unseen by
    the client."""

    router: Router
    small: Upstream
    large: Upstream
    name: str = "captions"
    shadow: float = 0.01
    timeout: float = 300.0  # seconds without a byte from an upstream
    most_seconds: float = MOST_SECONDS  # of one decision
    judge: Judge | None = None


class _Gone(Exception):
    """The client left."""


class _Broken(Exception):
    """An upstream stopped in the middle of its answer."""

    def __init__(self, model: str, error: Exception) -> None:
        super().__init__(f"{model} stopped in the middle of an answer: {type(error).__name__}.")
        self.model = model


@dataclass
class _Connection:
    """What aiohttp says of the connection that one request went over."""

    reused: bool = False


class Shell:
    """The application. Call it as ASGI does."""

    def __init__(self, settings: ShellSettings) -> None:
        self.settings = settings
        self.drift = Drift(settings.router)
        self.metrics = Metrics(self.drift)
        self._json = optional("orjson", "captions", "halftime captions serve")
        self._http = optional("aiohttp", "captions", "halftime captions serve")
        # an upstream's, of any kind
        self._failures = (self._http.ClientError, TimeoutError, OSError)
        self._session: aiohttp.ClientSession | None = None
        self._shadows: set[asyncio.Task[None]] = set()
        self._random = random.Random()
        warm_up()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] == "http":
            await self._http_request(scope, receive, send)
        return None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def close(self) -> None:
        """Give up what runs in the background, and the connections."""
        for task in self._shadows:
            task.cancel()
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """One client for all requests: a new one for each costs tens of milliseconds."""
        if self._session is None:
            limits = self._http.ClientTimeout(
                total=None, sock_connect=10, sock_read=self.settings.timeout
            )
            trace = self._http.TraceConfig(trace_config_ctx_factory=_context)
            trace.on_connection_reuseconn.append(_note_reuse)
            self._session = self._http.ClientSession(
                timeout=limits,
                auto_decompress=False,
                connector=self._http.TCPConnector(limit=0),
                trace_configs=[trace],
            )
        return self._session

    async def _http_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {"/healthz": self._health, "/metrics": self._metrics, "/v1/models": self._models}.get(
            scope["path"]
        )
        if own and scope["method"] == "GET":
            return await own(send)
        try:
            body = await _body(receive)
        except _Gone:
            return None
        except ValueError as error:
            return await _error(send, 413, str(error))
        work = asyncio.ensure_future(self._answered(scope, body, send))
        leaving = asyncio.ensure_future(_left(receive))
        # The first to end ends the other: an answer that nobody waits for is not paid for.
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, leaving):
            if not task.done():
                task.cancel()
        (problem,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(problem, _Broken):
            # The answer's start is out. Left unfinished, the server closes the connection: the
            # client sees a cut, and does not take half an answer for a whole one.
            self.metrics.errors.labels(problem.model).inc()
            logger.warning("%s", problem)
        elif isinstance(problem, Exception):
            logger.error("a request failed: %s", problem)
        return None

    async def _answered(self, scope: Scope, body: bytes, send: Send) -> None:
        data = self._routed(scope, body)
        if data is None:
            await self._through(scope, body, self.settings.large, send, {})
            return
        if self.settings.router.mode == "cascade" and self.settings.router.threshold is not None:
            await self._cascade(scope, data, send)
            return
        begun = time.perf_counter()
        decision = choose(self.settings.router, data, most_seconds=self.settings.most_seconds)
        self.metrics.seconds.observe(time.perf_counter() - begun)
        await self._forward(scope, data, decision, send)

    def _routed(self, scope: Scope, body: bytes) -> dict[str, object] | None:
        """The request as data where it is ours to route."""
        if scope["method"] != "POST" or not scope["path"].endswith("/chat/completions"):
            return None
        try:
            data = self._json.loads(body)
        except ValueError:
            return None
        ours = isinstance(data, dict) and data.get("model") == self.settings.name
        return data if ours else None

    async def _forward(
        self, scope: Scope, data: dict[str, object], decision: Decision, send: Send
    ) -> None:
        self._count(decision)
        upstream = self.settings.small if decision.small else self.settings.large
        if decision.small:
            try:
                text = await self._through(
                    scope, self._named(data, upstream), upstream, send, _told(decision), True
                )
            except self._failures:
                self.metrics.errors.labels(upstream.model).inc()
                decision, upstream = Decision(False, "failed"), self.settings.large
            else:
                self._maybe_shadow(scope, data, text)
                return
        await self._through(scope, self._named(data, upstream), upstream, send, _told(decision))

    def _count(self, decision: Decision) -> None:
        upstream = self.settings.small if decision.small else self.settings.large
        self.metrics.decisions.labels(upstream.model, decision.reason).inc()
        self.metrics.saved.inc(self.settings.large.price)
        self.drift.routed(decision.small)

    def _named(self, data: dict[str, object], upstream: Upstream) -> bytes:
        return bytes(self._json.dumps(data | {"model": upstream.model}))

    async def _through(
        self,
        scope: Scope,
        body: bytes,
        upstream: Upstream,
        send: Send,
        told: dict[str, str],
        may_fail: bool = False,
    ) -> bytes:
        """Pass a request on and its answer back, piece by piece as it comes; gives the answer's
        bytes, at most 1 MiB.

        Where `may_fail`, an upstream that cannot be reached or answers 5xx raises before anything
        is sent. Raises _Broken where an upstream stops after the start of its answer was sent.
        """
        try:
            opened = await self._opened(scope, body, upstream)
        except self._failures as error:
            if may_fail:
                raise
            self.metrics.errors.labels(upstream.model).inc()
            await _error(send, 502, f"{upstream.model} cannot be reached: {type(error).__name__}.")
            return b""
        kept = bytearray()
        async with opened as answer:
            if may_fail and answer.status >= 500:
                raise self._http.ClientPayloadError(f"{upstream.model} answered {answer.status}")
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": _headers(answer, told),
                }
            )
            async for piece in self._pieces(answer, upstream):
                kept += piece[: max(0, 2**20 - len(kept))]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.metrics.spend.labels(upstream.model).inc(upstream.spend(bytes(kept[-TAIL:])))
        return bytes(kept)

    async def _pieces(
        self, answer: aiohttp.ClientResponse, upstream: Upstream
    ) -> AsyncIterator[bytes]:
        try:
            async for piece in answer.content.iter_any():
                yield piece
        except self._failures as error:
            raise _Broken(upstream.model, error) from error

    async def _opened(
        self, scope: Scope, body: bytes, upstream: Upstream
    ) -> aiohttp.ClientResponse:
        """The start of an upstream's answer.

        A kept connection may have been closed by the upstream just before the request went out;
        aiohttp sends only idempotent methods again, so that a POST is sent once more here. On a new
        connection the upstream has read the request and may have worked on it.
        """
        connection = _Connection()
        try:
            return await self._asked(scope, body, upstream, connection)
        except (self._http.ServerDisconnectedError, OSError) as error:
            if not connection.reused or not _unanswered(error):
                raise
        return await self._asked(scope, body, upstream, connection)

    async def _asked(
        self, scope: Scope, body: bytes, upstream: Upstream, connection: _Connection
    ) -> aiohttp.ClientResponse:
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = {name: value for name, value in given.items() if name.lower() not in HOP}
        path = scope["path"].removeprefix("/v1")
        query = "?" + scope["query_string"].decode() if scope.get("query_string") else ""
        return await self.session.request(
            scope["method"],
            upstream.url + path + query,
            data=body or None,
            headers=upstream.headers(given),
            allow_redirects=False,
            trace_request_ctx=connection,
        )

    async def _cascade(self, scope: Scope, data: dict[str, object], send: Send) -> None:
        """Ask the small model, check its answer against the picture, and ask the large one where
        that is not enough."""
        request, small = asked(data), self.settings.small
        if request.picture is None or self.settings.judge is None:
            reason = "uncertified" if self.settings.judge is None else request.reason
            return await self._forward(scope, data, Decision(False, reason), send)
        held = _Held()
        try:
            answer = await self._through(scope, self._named(data, small), small, held, {}, True)
            score = await asyncio.to_thread(
                self.settings.judge, request.picture, request.prompt, text_of(answer)
            )
            decision = choose(
                self.settings.router, data, check=score, most_seconds=self.settings.most_seconds
            )
        except (*self._failures, _Broken, ValueError):
            self.metrics.errors.labels(small.model).inc()
            decision = Decision(False, "failed")
        if decision.small and held.status < 400:
            self._count(decision)
            return await held.release(send, _told(decision))
        return await self._forward(
            scope, data, Decision(False, "check", decision.probability), send
        )

    def _maybe_shadow(self, scope: Scope, data: dict[str, object], small_answer: bytes) -> None:
        if self._random.random() < self.settings.shadow:
            task = asyncio.ensure_future(self._shadow(scope, data, small_answer))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(self, scope: Scope, data: dict[str, object], small_answer: bytes) -> None:
        large, held = self.settings.large, _Held()
        try:
            answer = await self._through(scope, self._named(data, large), large, held, {}, True)
        except (*self._failures, _Broken):
            return
        fine = same(text_of(small_answer), text_of(answer))
        before = len(self.drift.alarms)
        self.drift.judged(fine)
        self.metrics.shadowed.labels(str(fine).lower()).inc()
        for alarm in self.drift.alarms[before:]:
            logger.warning("drift: %s", alarm)

    async def _health(self, send: Send) -> None:
        router = self.settings.router
        certified = {
            "certified": router.threshold is not None,
            "mode": router.mode,
            "alarms": self.drift.alarms,
        }
        await _json(send, 200, {"status": "ok", **certified})

    async def _metrics(self, send: Send) -> None:
        await _whole(send, 200, self.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, send: Send) -> None:
        names = (self.settings.name, self.settings.small.model, self.settings.large.model)
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "halftime"} for name in names
        ]
        await _json(send, 200, {"object": "list", "data": data})


class _Held:
    """Takes an answer's messages, and lets them go later or never."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"]) if self.messages else 599

    async def release(self, send: Send, told: dict[str, str]) -> None:
        first, *rest = self.messages
        headers = [
            *first["headers"],
            *((name.encode(), value.encode()) for name, value in told.items()),
        ]
        for message in ({**first, "headers": headers}, *rest):
            await send(message)


def _context(trace_request_ctx: _Connection) -> _Connection:
    return trace_request_ctx


async def _note_reuse(
    session: aiohttp.ClientSession, connection: _Connection, parameters: object
) -> None:
    connection.reused = True


def _unanswered(error: Exception) -> bool:
    """Whether not a byte of an answer came. A timeout is no closed connection; half a head comes as
    `message`."""
    return not isinstance(error, TimeoutError) and isinstance(getattr(error, "message", ""), str)


def _told(decision: Decision) -> dict[str, str]:
    chance = (
        {}
        if decision.probability is None
        else {"x-halftime-probability": f"{decision.probability:.4f}"}
    )
    return {
        "x-halftime-route": "small" if decision.small else "large",
        "x-halftime-reason": decision.reason,
        **chance,
    }


def _headers(answer: aiohttp.ClientResponse, told: dict[str, str]) -> list[tuple[bytes, bytes]]:
    kept = [
        (name, value)
        for name, value in answer.raw_headers
        if name.decode("latin-1").lower() not in HOP
    ]
    length = (
        [(b"content-length", str(answer.content_length).encode())]
        if answer.content_length is not None
        else []
    )
    return [*kept, *length, *((name.encode(), value.encode()) for name, value in told.items())]


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises _Gone, or ValueError where it is too large."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_BODY:
            raise ValueError(
                f"The body is larger than {MOST_BODY:,} bytes. Send a smaller picture, or its URL."
            )
        if not message.get("more_body"):
            return b"".join(pieces)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _error(send: Send, status: int, message: str) -> None:
    kind = "invalid_request_error" if status < 500 else "server_error"
    await _json(
        send, status, {"error": {"message": message, "type": kind, "param": None, "code": None}}
    )


async def _json(send: Send, status: int, data: dict[str, object]) -> None:
    await _whole(send, status, json.dumps(data).encode(), b"application/json")


async def _whole(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
