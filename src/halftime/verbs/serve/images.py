"""POST /v1/images/generations, /v1/images/edits and /v1/images/variations.

A request becomes jobs, one a picture, and their pictures one answer, or a stream (`streaming`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time

from starlette.requests import Request
from starlette.responses import Response

from halftime.http.access import CLIENT
from halftime.http.disconnect import unless_disconnected
from halftime.http.endpoints import json_response
from halftime.http.errors import ApiError
from halftime.http.traffic import TIMING
from halftime.records.serve import EngineStatus
from halftime.verbs.serve.draw import (
    DrawnPicture,
    draw_all,
    parts_of,
    submitted,
    usage,
)
from halftime.verbs.serve.files import MEDIA_TYPES
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.queue import nearest_size
from halftime.verbs.serve.request import (
    PictureRequest,
    Uploads,
    certificate_of,
    checked_request,
    json_body,
    multipart_body,
)
from halftime.verbs.serve.schema import (
    EditRequest,
    GenerateRequest,
    ImageObject,
    ImagesResponse,
    Timing,
    VariationRequest,
)
from halftime.verbs.serve.service import HttpSettings, Service, choose_model, service_of
from halftime.verbs.serve.snapping import snapped
from halftime.verbs.serve.streaming import EventStream
from halftime.verbs.serve.uploads import check_uploads, prepared


async def generate(request: Request) -> Response:
    """Text to picture."""
    begun = time.perf_counter()
    body = await json_body(request, GenerateRequest)
    service = choose_model(request, body.model)
    client = request.scope.get(CLIENT, "")
    checked = checked_request(service, body, "image_generation", begun, client)
    return await _answer(request, checked)


async def edit(request: Request) -> Response:
    """A picture and text to a picture."""
    begun = time.perf_counter()
    async with multipart_body(request, EditRequest) as (body, uploads):
        service = choose_model(request, body.model)
        checked = checked_request(service, body, "image_edit", begun, request.scope.get(CLIENT, ""))
        checked = await _with_uploads(service, checked, uploads)
    return await _answer(request, checked)


async def vary(request: Request) -> Response:
    """A picture to pictures like it: an edit without a prompt."""
    begun = time.perf_counter()
    async with multipart_body(request, VariationRequest) as (body, uploads):
        service = choose_model(request, body.model)
        checked = checked_request(
            service, body.as_edit(), "image_edit", begun, request.scope.get(CLIENT, "")
        )
        checked = await _with_uploads(service, checked, uploads)
    return await _answer(request, checked)


async def _with_uploads(
    service: Service, checked: PictureRequest, uploads: Uploads
) -> PictureRequest:
    """The request with its pictures, ready for the worker. Raises ApiError."""
    decoding, status = time.perf_counter(), service.engine.status
    certificate = certificate_of(status)
    size = drawn_size(status, checked.jobs[0])
    try:
        check_uploads(certificate, uploads)
        async with service.uploads:  # only now: one that comes in slowly holds up nobody
            pictures = await asyncio.to_thread(prepared, certificate, uploads, size)
    except BaseException:
        service.profiler.give_back(checked.jobs)
        raise
    return checked.drawn_from(pictures, time.perf_counter() - decoding)


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
        drawing = submitted(service, checked.client, checked.jobs)
        streams = await stack.enter_async_context(drawing)
        return EventStream(service, checked, streams, stack)
    pictures = await unless_disconnected(request.receive, draw_all(service, checked))
    timings = usage(checked, pictures)
    answer = ImagesResponse(
        created=int(time.time()),
        data=[await _image_object(request, checked, picture) for picture in pictures],
        output_format=checked.picture_format,
        quality=checked.quality,
        size=pictures[0].size,
        usage=timings,
        snapped=snapped(checked.jobs[0], pictures[0].timing),
    )
    request.scope[TIMING] = parts_of(timings.halftime)
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
    """The Server-Timing header (W3C) of the same, in milliseconds."""
    parts = {**parts_of(timing), "total": timing.seconds}
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())
