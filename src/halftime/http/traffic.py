"""Around every request: a number, a count, a clock, a log line without its content, and no answer
that never ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPMethod

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halftime.http.access import API, KEY
from halftime.http.access_log import fields
from halftime.http.disconnect import ClientLeft
from halftime.http.errors import CODE, ApiError, unexpected
from halftime.http.metrics import HttpMetrics

logger = logging.getLogger("halftime.http")
CLIENT_LEFT = 499  # nginx's number for it; nobody receives it
REQUEST_ID = b"x-request-id"
NUMBER = "halftime.number"  # in the scope: what `x-request-id` says
TIMING = "halftime.timing"  # in the scope: part of the request -> seconds, in their order
_PIECE = 256 * 2**10  # bytes


@dataclass
class Traffic:
    """The requests of one application: counted by `Observed`, waited for by the draining server."""

    metrics: HttpMetrics
    drain_seconds: float = 30.0  # from SIGTERM, for requests under way to finish
    send_seconds: float = 30.0  # for a reader to take any one piece of an answer
    active: int = 0  # requests under /v1 that are not answered yet
    draining: bool = False


@dataclass
class _Exchange:
    """One request and its answer. `status` is 0 until the answer has begun."""

    number: str
    status: int = 0


class Observed:
    """ASGI middleware, the outermost: sees every answer, and words what the middleware under it
    refuses."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app, self.traffic = app, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange, begun = _Exchange(secrets.token_hex(8)), time.perf_counter()
        scope[NUMBER] = exchange.number
        counts = scope["path"].startswith(API)
        self.traffic.active += counts
        self.traffic.metrics.active.inc()
        limit = _SendLimit(self.traffic.send_seconds)
        try:
            await self._answer(scope, receive, _sender(send, exchange, limit), exchange)
        finally:
            limit.end()
            self.traffic.active -= counts
            self.traffic.metrics.active.dec()
            self._record(scope, exchange, time.perf_counter() - begun)
        return None

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, exchange: _Exchange
    ) -> None:
        try:
            if self.traffic.draining and scope["path"].startswith(API):
                raise ApiError(
                    503,
                    "The server is shutting down. Ask another one.",
                    code="draining",
                    retry_after=self.traffic.drain_seconds,
                    close=True,
                )
            await self.app(scope, receive, send)
        except (ClientLeft, ClientDisconnect):
            exchange.status = CLIENT_LEFT
            self.traffic.metrics.cancelled.inc()
        except ApiError as error:
            scope[CODE] = error.detail.code
            await error.response()(scope, receive, send)
        except Exception as error:
            # The text of an error may hold what the client sent: its kind and where it was raised
            # are logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s in request %s\n%s", type(error).__name__, exchange.number, where)
            if not exchange.status:
                await unexpected(error)(scope, receive, send)

    def _record(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        status, metrics = exchange.status, self.traffic.metrics
        # The route, never the path, and one name for methods that HTTP does not know
        # (OpenTelemetry's): labels must stay few.
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "_OTHER"
        metrics.request_seconds.labels(method, route, str(status)).observe(seconds)
        if status >= 400 and status != CLIENT_LEFT:
            metrics.refused(scope.get(CODE) or str(status), scope.get(KEY))
        level = logging.INFO if scope["path"].startswith(API) else logging.DEBUG
        values = (method, route, status, seconds, exchange.number)
        extra = fields(
            request_id=exchange.number,
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 6),
            key=scope.get(KEY),
            code=scope.get(CODE),
            timing=scope.get(TIMING),
        )
        logger.log(level, "%s %s %d %.3f s %s", *values, extra=extra)


class _SendLimit:
    """Gives up on a reader that stopped: one timer a request, not one a piece."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[object] | None = None
        self._since = 0.0
        self._gave_up = False

    async def sent(self, send: Send, message: Message) -> None:
        """Hand a piece to the server. Raises ClientLeft where that takes too long."""
        # Waits only while the socket's buffers are full, so only a reader that stopped reading
        # runs into this.
        task = asyncio.current_task()
        assert task is not None
        self._sending, self._since = task, self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self.seconds, self._look)
        try:
            await send(message)
        except asyncio.CancelledError:
            if not self._gave_up or task.uncancel():
                raise  # somebody else's
            raise ClientLeft from None  # the server closes what is returned from unfinished
        finally:
            self._sending = None

    def _look(self) -> None:
        due = self._since + self.seconds
        if self._sending is None:
            self._timer = None  # the next piece starts it again
        elif self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self._gave_up = True
            self._sending.cancel()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _sender(send: Send, exchange: _Exchange, limit: _SendLimit) -> Send:
    """`send` that notes the status, numbers the answer, and gives up on a reader that stopped."""

    async def observed(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            headers = list(message.get("headers", []))
            # an answer that is passed on keeps the number that its own server gave it
            if all(name.lower() != REQUEST_ID for name, _ in headers):
                headers.append((REQUEST_ID, exchange.number.encode()))
            message = {**message, "headers": headers}
        for piece in pieces(message):
            await limit.sent(send, piece)

    return observed


def pieces(message: Message) -> Iterator[Message]:
    """A large body in pieces, since what is handed to the server at once is copied and kept until
    it is read."""
    body = message.get("body", b"")
    if len(body) <= _PIECE:
        yield message
        return
    for start in range(0, len(body), _PIECE):
        last = start + _PIECE >= len(body)
        yield {
            **message,
            "body": body[start : start + _PIECE],
            "more_body": message.get("more_body", False) or not last,
        }
