"""`stream=true`: previews first, then the pictures, as server-sent events that OpenAI's client
parses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from halftime.http.disconnect import unless_disconnected
from halftime.http.errors import ApiError, ErrorDetail
from halftime.http.traffic import TIMING
from halftime.verbs.serve.draw import Events, encoded, failure, finished, parts_of, usage
from halftime.verbs.serve.messages import Event, Final, JobFailed, Preview, Started
from halftime.verbs.serve.request import PictureRequest
from halftime.verbs.serve.schema import CompletedEvent, PartialEvent
from halftime.verbs.serve.service import Service
from halftime.verbs.serve.snapping import snapped

# the latter for nginx, which buffers otherwise
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"


class ErrorEvent(msgspec.Struct):
    """What a stream ends with when the picture cannot be finished; OpenAI's client raises it."""

    error: ErrorDetail
    type: str = "error"


class EventStream(Response):
    """The events of a request's jobs, as they come. When the client leaves, the jobs are cancelled:
    `stack` is closed."""

    media_type = "text/event-stream"

    def __init__(
        self,
        service: Service,
        request: PictureRequest,
        streams: Sequence[Events],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._service, self._request = service, request
        self._streams, self._stack = streams, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await unless_disconnected(receive, self._send_all(scope, send))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async for chunk in self._chunks(scope):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, scope: Scope) -> AsyncIterator[bytes]:
        try:
            async for moment in merged(self._streams, self._service.settings.keep_alive_seconds):
                if moment is None:
                    yield KEEP_ALIVE
                    continue
                index, event = moment
                if isinstance(event, Started):
                    yield b": started\n\n"
                elif isinstance(event, Preview):
                    # after a crash they come again, more than were asked for
                    if event.index < self._request.jobs[0].previews:
                        yield await self._partial(index, event)
                elif isinstance(event, Final | JobFailed):
                    yield await self._end(scope, index, event)
        except ApiError as error:
            self._service.metrics.rejected.labels(error.detail.code or "").inc()
            yield message(ErrorEvent(error.detail))

    async def _partial(self, index: int, preview: Preview) -> bytes:
        self._service.metrics.previews.inc()
        file = await encoded(preview, self._request)
        return message(
            PartialEvent(
                type=f"{self._request.kind}.partial_image",
                b64_json=base64.b64encode(file).decode(),
                image_index=index,
                partial_image_index=preview.index,
                created_at=int(time.time()),
                output_format=self._request.picture_format,
                quality=self._request.quality,
                size=f"{preview.width}x{preview.height}",
                step=preview.step,
                steps=self._request.jobs[index].steps,
            )
        )

    async def _end(self, scope: Scope, index: int, event: Final | JobFailed) -> bytes:
        if isinstance(event, JobFailed):
            raise failure(event)
        request = self._request
        job = request.jobs[index]
        picture = await finished(self._service, request, job, event)
        timings = usage(request, [picture])
        scope[TIMING] = parts_of(timings.halftime)  # of several that which came last
        return message(
            CompletedEvent(
                type=f"{request.kind}.completed",
                b64_json=base64.b64encode(picture.file).decode(),
                image_index=index,
                created_at=int(time.time()),
                output_format=request.picture_format,
                quality=request.quality,
                size=picture.size,
                seed=picture.seed,
                usage=timings,
                snapped=snapped(job, picture.timing),
            )
        )


def message(body: PartialEvent | CompletedEvent | ErrorEvent) -> bytes:
    """One server-sent event, named as its type."""
    return b"event: " + body.type.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


async def merged(
    streams: Sequence[Events], seconds: float
) -> AsyncIterator[tuple[int, Event] | None]:
    """The events of all streams as they come, each with the place of its stream; and None whenever
    none came for `seconds`: what a proxy needs so as not to give up."""
    coming = {asyncio.ensure_future(anext(stream)): i for i, stream in enumerate(streams)}
    try:
        while coming:
            arrived, _ = await asyncio.wait(
                coming, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not arrived:
                yield None
            for task in sorted(arrived, key=coming.__getitem__):
                index = coming.pop(task)
                if isinstance(task.exception(), StopAsyncIteration):
                    continue
                coming[asyncio.ensure_future(anext(streams[index]))] = index
                yield index, task.result()
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
