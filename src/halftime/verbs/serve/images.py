"""POST /v1/images/generations and /v1/images/edits.

A request becomes jobs, one a picture, and their pictures one answer, or a stream of server-sent
events as OpenAI's client parses them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from halftime.http.access import CLIENT
from halftime.http.disconnect import unless_disconnected
from halftime.http.endpoints import json_response
from halftime.http.errors import ApiError, ErrorDetail
from halftime.records.serve import EngineStatus
from halftime.verbs.serve.draw import (
    DrawnPicture,
    Events,
    draw_all,
    encoded,
    failure,
    finished,
    slowest_of,
    submitted,
    usage,
)
from halftime.verbs.serve.files import MEDIA_TYPES, checked_picture
from halftime.verbs.serve.messages import Event, Final, Job, JobFailed, Preview, Started
from halftime.verbs.serve.queue import nearest_size
from halftime.verbs.serve.request import (
    PictureRequest,
    certificate_of,
    checked_request,
    json_body,
    multipart_body,
)
from halftime.verbs.serve.schema import (
    CompletedEvent,
    EditRequest,
    GenerateRequest,
    ImageObject,
    ImagesResponse,
    PartialEvent,
    Timing,
)
from halftime.verbs.serve.service import HttpSettings, Service, service_of

# the latter for nginx, which buffers otherwise
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"


async def generate(request: Request) -> Response:
    """Text to picture."""
    begun = time.perf_counter()
    body = await json_body(request, GenerateRequest)
    checked = checked_request(
        service_of(request), body, "image_generation", begun, request.scope.get(CLIENT, "")
    )
    return await _answer(request, checked)


async def edit(request: Request) -> Response:
    """A picture and text to a picture."""
    begun, service = time.perf_counter(), service_of(request)
    async with multipart_body(request, EditRequest) as (body, file):
        checked = checked_request(service, body, "image_edit", begun, request.scope.get(CLIENT, ""))
        decoding = time.perf_counter()
        size = drawn_size(service.engine.status, checked.jobs[0])
        try:
            async with service.uploads:  # only now: one that comes in slowly holds up nobody
                image = await asyncio.to_thread(checked_picture, file, size)
        except BaseException:
            service.profiler.give_back(checked.jobs)
            raise
    seconds = time.perf_counter() - decoding
    return await _answer(request, checked.drawn_from(image, seconds))


def drawn_size(status: EngineStatus, job: Job) -> tuple[int, int]:
    """The size that a job is drawn at where sizes are snapped; elsewhere a size that is not listed
    is refused."""
    return nearest_size((job.width, job.height), certificate_of(status).sizes)


async def picture(request: Request) -> Response:
    """A picture that an answer with `response_format=url` named. No key: its name is the key."""
    pictures, name = service_of(request).pictures, request.path_params["name"]
    stored = await asyncio.to_thread(pictures.get, name) if pictures is not None else None
    if stored is None:
        raise ApiError(404, "There is no such picture, or it has expired.", code="not_found")
    headers = {"cache-control": "private, no-store"}
    return Response(stored.data, headers=headers, media_type=stored.media_type)


# ---- one answer


async def _answer(request: Request, checked: PictureRequest) -> Response:
    service = service_of(request)
    if checked.stream:
        stack = contextlib.AsyncExitStack()
        (events,) = await stack.enter_async_context(submitted(service, checked))
        return EventStream(service, checked, events, stack)
    pictures = await unless_disconnected(request.receive, draw_all(service, checked))
    timings = usage(checked, pictures)
    answer = ImagesResponse(
        created=int(time.time()),
        data=[await _image_object(request, checked, picture) for picture in pictures],
        output_format=checked.picture_format,
        quality=checked.quality,
        size=pictures[0].size,
        usage=timings,
    )
    server_timing = server_timing_of(timings.halftime)
    return json_response(answer, headers={"server-timing": server_timing})


async def _image_object(
    request: Request, checked: PictureRequest, picture: DrawnPicture
) -> ImageObject:
    store = service_of(request).pictures
    if not checked.as_url or store is None:
        return ImageObject(seed=picture.seed, b64_json=base64.b64encode(picture.file).decode())
    media_type = MEDIA_TYPES[checked.picture_format]
    name = await asyncio.to_thread(store.put, picture.file, media_type)
    url = base_url(request, service_of(request).settings) + request.app.url_path_for(
        "picture", name=name
    )
    return ImageObject(seed=picture.seed, url=url)


def base_url(request: Request, settings: HttpSettings) -> str:
    """Where clients reach this server: as the settings say, or under the `Host` that was checked,
    or at the address that the connection came in at. Never what an unchecked header says."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme = request.url.scheme
    if settings.hosts:
        return f"{scheme}://{request.headers['host']}"
    host, port = request.scope["server"]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def server_timing_of(timing: Timing) -> str:
    """The Server-Timing header (W3C) of the slowest picture: milliseconds, in the order of the
    stages, which add up to the total."""
    slowest = slowest_of(timing.pictures)
    parts = {
        "receive": timing.receive_seconds,
        "upload": timing.upload_seconds,
        "queue": slowest.queue_seconds,
        **slowest.stages,
        "file": timing.encode_seconds,
        "rest": timing.rest_seconds,
        "total": timing.seconds,
    }
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())


# ---- stream=true: previews first, then the picture


class ErrorEvent(msgspec.Struct):
    """What a stream ends with when the picture cannot be finished; OpenAI's client raises it."""

    error: ErrorDetail
    type: str = "error"


class EventStream(Response):
    """The events of one job. When the client leaves, the job is cancelled: `stack` is closed."""

    media_type = "text/event-stream"

    def __init__(
        self,
        service: Service,
        request: PictureRequest,
        events: Events,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._service, self._request = service, request
        self._events, self._stack = events, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for event in _with_pauses(
                self._events, self._service.settings.keep_alive_seconds
            ):
                if event is None:
                    yield KEEP_ALIVE
                elif isinstance(event, Started):
                    yield b": started\n\n"
                elif isinstance(event, Preview):
                    # after a crash they come again, more than were asked for
                    if event.index < self._request.jobs[0].previews:
                        yield await self._partial(event)
                else:
                    yield await self._end(event)
                    return
        except ApiError as error:
            self._service.metrics.rejected.labels(error.detail.code or "").inc()
            yield message(ErrorEvent(error.detail))

    async def _partial(self, preview: Preview) -> bytes:
        self._service.metrics.previews.inc()
        file = await encoded(preview, self._request)
        return message(
            PartialEvent(
                type=f"{self._request.kind}.partial_image",
                b64_json=base64.b64encode(file).decode(),
                partial_image_index=preview.index,
                created_at=int(time.time()),
                output_format=self._request.picture_format,
                quality=self._request.quality,
                size=f"{preview.width}x{preview.height}",
                step=preview.step,
                steps=self._request.jobs[0].steps,
            )
        )

    async def _end(self, event: Final | JobFailed) -> bytes:
        if isinstance(event, JobFailed):
            raise failure(event)
        request = self._request
        picture = await finished(self._service, request, request.jobs[0], event)
        return message(
            CompletedEvent(
                type=f"{request.kind}.completed",
                b64_json=base64.b64encode(picture.file).decode(),
                created_at=int(time.time()),
                output_format=request.picture_format,
                quality=request.quality,
                size=picture.size,
                seed=picture.seed,
                usage=usage(request, [picture]),
            )
        )


def message(body: PartialEvent | CompletedEvent | ErrorEvent) -> bytes:
    """One server-sent event, named as its type."""
    return b"event: " + body.type.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


async def _with_pauses(events: Events, seconds: float) -> AsyncIterator[Event | None]:
    """The events, and None whenever none came for `seconds`: what a proxy needs so as not to give
    up."""
    coming = asyncio.ensure_future(anext(events))
    try:
        while True:
            await asyncio.wait({coming}, timeout=seconds)
            if not coming.done():
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            yield event
            coming = asyncio.ensure_future(anext(events))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
