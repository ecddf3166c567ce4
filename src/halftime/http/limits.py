"""Request bodies are bounded in size and time, whatever reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halftime.http.errors import ApiError

# A client that is still sending sees the answer only if the rest is read; a few times the limit,
# no more.
_DISCARDED = 4


class LimitedBodies:
    """ASGI middleware: no body above `most` bytes (413), none that takes longer than `seconds` to
    arrive (408; None: as long as it likes), and no more than `together` bytes of all requests that
    are under way (503; None: no limit)."""

    def __init__(
        self, app: ASGIApp, most: int, seconds: float | None, together: int | None = None
    ) -> None:
        self.app, self.most, self.seconds, self.together = app, most, seconds, together
        self._in_hand = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _LimitedBody(receive, self.most, self.seconds, self._take)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self._in_hand -= body.size

    def _take(self, size: int) -> None:
        """So many more bytes are in hand. Raises ApiError (503)."""
        self._in_hand += size
        if self.together is not None and self._in_hand > self.together:
            raise ApiError(
                503,
                "Too many large requests come in at once.",
                code="too_many_bodies",
                retry_after=2.0,
                close=True,
            )


class _LimitedBody:
    """One request's `receive`, counting."""

    def __init__(
        self, receive: Receive, most: int, seconds: float | None, take: Callable[[int], None]
    ) -> None:
        self._receive, self._most, self._seconds, self._take = receive, most, seconds, take
        self._begun = time.monotonic()
        self.size = 0  # bytes so far
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # waits for the disconnect, however long the answer takes
        message = await self._next()
        if self.size > self._most:
            while not self._complete and self.size <= _DISCARDED * self._most:
                await self._next()
            raise ApiError(
                413,
                f"The body is larger than {self._most:,} bytes, the limit. Send a smaller picture.",
                code="body_too_large",
            )
        return message

    async def _next(self) -> Message:
        """The next message, counted. Raises ApiError (408) where it does not come in time."""
        left = None if self._seconds is None else self._begun + self._seconds - time.monotonic()
        try:
            # Not wait_for, which in Python 3.11 can swallow a cancellation that comes as its work
            # is done.
            async with nullcontext() if left is None else asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            self._complete = True
            raise ApiError(
                408,
                f"The body did not arrive within {self._seconds:g} s.",
                code="body_timeout",
                retry=False,
            ) from None
        size = len(message.get("body", b""))
        self.size += size
        self._take(size)
        self._complete = not message.get("more_body", False)
        return message
