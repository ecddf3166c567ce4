"""Around every request: a number, a count, a clock, a log line without the prompt, and no answer
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

from halftime.verbs.serve.disconnect import ClientLeft
from halftime.verbs.serve.errors_http import CODE, ApiError, unexpected
from halftime.verbs.serve.service import Service

logger = logging.getLogger("halftime.serve")
CLIENT_LEFT = 499  # nginx's number for it; nobody receives it
REQUEST_ID = "x-request-id"
_PIECE = 256 * 2**10  # bytes


@dataclass
class _Seen:
    """What is known about an answer so far."""

    name: str
    status: int = 0


class Observed:
    """ASGI middleware, the outermost: sees every answer, and words what the middleware under it
    refuses."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen, begun = _Seen(secrets.token_hex(8)), time.perf_counter()
        sender = _sender(send, seen, self.service.settings.send_seconds)
        counts = scope["path"].startswith("/v1/")
        self.service.active += counts
        self.service.metrics.active.inc()
        try:
            await self._answered(scope, receive, sender, seen)
        finally:
            self.service.active -= counts
            self.service.metrics.active.dec()
            self._record(scope, seen, time.perf_counter() - begun)
        return None

    async def _answered(self, scope: Scope, receive: Receive, send: Send, seen: _Seen) -> None:
        try:
            self._refuse_when_draining(scope)
            await self.app(scope, receive, send)
        except (ClientLeft, ClientDisconnect):
            seen.status = CLIENT_LEFT
            self.service.metrics.cancelled.inc()
        except ApiError as error:
            scope[CODE] = error.detail.code
            await error.response()(scope, receive, send)
        except Exception as error:
            # The text of an error may hold what the client sent: its kind and where it was raised
            # are logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s in request %s\n%s", type(error).__name__, seen.name, where)
            if not seen.status:
                await unexpected(error)(scope, receive, send)

    def _refuse_when_draining(self, scope: Scope) -> None:
        if self.service.draining and scope["path"].startswith("/v1/"):
            left = self.service.settings.drain_seconds
            raise ApiError(
                503,
                "The server is shutting down. Ask another one.",
                code="draining",
                retry_after=left,
                close=True,
            )

    def _record(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        # never the path asked for: labels must stay few
        route = getattr(scope.get("route"), "path", "unknown")
        metrics = self.service.metrics
        metrics.request_seconds.labels(_method(scope), route, str(seen.status)).observe(seconds)
        if seen.status >= 400 and seen.status != CLIENT_LEFT:
            metrics.rejected.labels(scope.get(CODE) or str(seen.status)).inc()
        level = logging.INFO if scope["path"].startswith("/v1/") else logging.DEBUG
        logger.log(
            level, "%s %s %d %.3f s %s", scope["method"], route, seen.status, seconds, seen.name
        )


def _method(scope: Scope) -> str:
    """The method, or OpenTelemetry's name for one that HTTP does not know."""
    method: str = scope["method"]
    return method if method in HTTPMethod.__members__ else "_OTHER"


def _sender(send: Send, seen: _Seen, seconds: float) -> Send:
    async def observed(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            message = {
                **message,
                "headers": [*message.get("headers", []), (REQUEST_ID.encode(), seen.name.encode())],
            }
        for piece in _pieces(message):
            # Waits only while the socket's buffers are full, so only a reader that stopped reading
            # runs into this.
            try:
                async with asyncio.timeout(seconds):
                    await send(piece)
            except TimeoutError:
                raise ClientLeft from None  # the server closes what is returned from unfinished

    return observed


def _pieces(message: Message) -> Iterator[Message]:
    """A large body in pieces, since what is handed to the server at once is copied and kept until
    it is read."""
    body = message.get("body", b"")
    if len(body) <= _PIECE:
        yield message
        return
    for at in range(0, len(body), _PIECE):
        last = at + _PIECE >= len(body)
        yield {
            **message,
            "body": body[at : at + _PIECE],
            "more_body": message.get("more_body", False) or not last,
        }
