"""`stream=true`: server-sent events as OpenAI's client parses them; previews first, then the
picture."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from halftime.http.disconnect import unless_disconnected
from halftime.http.errors import ApiError, ErrorDetail
from halftime.verbs.serve.draw import Drawn, Events, close_all, encoded, failure, finished, usage
from halftime.verbs.serve.messages import Event, Failed, Final, Preview, Started
from halftime.verbs.serve.order import Order
from halftime.verbs.serve.schema import CompletedEvent, PartialEvent
from halftime.verbs.serve.service import Service

# the latter for nginx, which buffers otherwise
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"


class ErrorEvent(msgspec.Struct):
    """What a stream ends with when the picture cannot be finished; OpenAI's client raises it."""

    error: ErrorDetail
    type: str = "error"


class EventStream(Response):
    """The events of one job. When the client leaves, the job is cancelled."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, order: Order, events: Events) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._service, self._order, self._events = service, order, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send_all(send))
        finally:
            await close_all([self._events])

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        index = 0
        try:
            async for event in _with_pauses(
                self._events, self._service.settings.keep_alive_seconds
            ):
                if event is None:
                    yield KEEP_ALIVE
                elif isinstance(event, Started):
                    yield b": started\n\n"
                elif isinstance(event, Preview):
                    if index < self._order.jobs[0].previews:  # after a crash they may come again
                        yield await self._partial(event, index)
                    index += 1
                else:
                    yield await self._end(event)
                    return
        except ApiError as error:
            yield self._failed(error)

    async def _partial(self, preview: Preview, index: int) -> bytes:
        self._service.metrics.previews.inc()
        file = await encoded(preview, self._order)
        return message(
            PartialEvent(
                type=f"{self._order.kind}.partial_image",
                b64_json=base64.b64encode(file).decode(),
                partial_image_index=index,
                created_at=int(time.time()),
                output_format=self._order.picture_format,
                quality=self._order.quality,
                size=f"{preview.width}x{preview.height}",
                step=preview.step,
                steps=self._order.jobs[0].steps,
            )
        )

    async def _end(self, event: Final | Failed) -> bytes:
        if isinstance(event, Failed):
            raise failure(event)
        return self._completed(
            await finished(self._service, self._order, self._order.jobs[0], event)
        )

    def _completed(self, drawn: Drawn) -> bytes:
        return message(
            CompletedEvent(
                type=f"{self._order.kind}.completed",
                b64_json=base64.b64encode(drawn.file).decode(),
                created_at=int(time.time()),
                output_format=self._order.picture_format,
                quality=self._order.quality,
                size=drawn.size,
                seed=drawn.seed,
                usage=usage(self._order, [drawn]),
            )
        )

    def _failed(self, error: ApiError) -> bytes:
        self._service.metrics.rejected.labels(error.detail.code or "").inc()
        return message(ErrorEvent(error.detail))


def message(body: PartialEvent | CompletedEvent | ErrorEvent) -> bytes:
    """One server-sent event, named as its type."""
    return b"event: " + body.type.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


async def _with_pauses(events: Events, seconds: float) -> AsyncIterator[Event | None]:
    """The events, and None whenever none came for `seconds`: what a proxy needs so as not to give
    up."""
    coming: asyncio.Future[Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                event, coming = coming.result(), None
            except StopAsyncIteration:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
