"""What a caller holds while a job is in the engine: its events, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from halftime.verbs.serve.messages import Event, Failed, Final


class Ticket:
    """The events of one job. Closing it before its end cancels the job."""

    def __init__(self, job_id: str, cancel: Callable[[str], None]) -> None:
        self._job_id, self._cancel = job_id, cancel
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._over = False
        self.previews = 0

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        event = await self._events.get()
        self._over = isinstance(event, Final | Failed)
        return event

    async def aclose(self) -> None:
        """Nobody waits any more; the worker stops within a step. Does nothing after the last
        event."""
        if not self._over:
            self._over = True
            self._cancel(self._job_id)
