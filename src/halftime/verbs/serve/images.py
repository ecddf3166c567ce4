"""POST /v1/images/generations and /v1/images/edits: a request becomes one job a picture, their
pictures one answer."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from halftime.http.disconnect import unless_disconnected
from halftime.http.errors import JSON, ApiError
from halftime.verbs.serve.bodies import json_body, multipart_body
from halftime.verbs.serve.draw import Drawn, draw_all, submit_all, usage
from halftime.verbs.serve.encode import MEDIA_TYPES, checked_picture
from halftime.verbs.serve.events import EventStream
from halftime.verbs.serve.order import Order, order_of
from halftime.verbs.serve.schema import EditRequest, GenerateRequest, ImagesResponse, Picture
from halftime.verbs.serve.service import Service, service_of


async def generate(request: Request) -> Response:
    """Text to picture."""
    begun = time.perf_counter()
    wanted = await json_body(request, GenerateRequest)
    return await _answer(request, order_of(service_of(request), wanted, "image_generation", begun))


async def edit(request: Request) -> Response:
    """A picture and text to a picture."""
    begun = time.perf_counter()
    async with service_of(request).uploads:
        wanted, data = await multipart_body(request, EditRequest)
        image = await asyncio.to_thread(checked_picture, data)
    return await _answer(request, order_of(service_of(request), wanted, "image_edit", begun, image))


async def _answer(request: Request, order: Order) -> Response:
    service = service_of(request)
    if order.stream:
        return EventStream(service, order, (await submit_all(service, order.jobs))[0])
    drawn = await unless_disconnected(request.receive, draw_all(service, order))
    return _whole(request, service, order, drawn)


def _whole(request: Request, service: Service, order: Order, drawn: Sequence[Drawn]) -> Response:
    told = usage(order, drawn)
    answer = ImagesResponse(
        created=int(time.time()),
        data=[_picture(request, service, order, each) for each in drawn],
        output_format=order.picture_format,
        quality=order.quality,
        size=drawn[0].size,
        usage=told,
    )
    slowest = max(drawn, key=lambda each: each.timing.queue_seconds + each.timing.compute_seconds)
    return Response(
        msgspec.json.encode(answer),
        headers={"server-timing": server_timing(slowest, told.halftime.seconds)},
        media_type=JSON,
    )


def _picture(request: Request, service: Service, order: Order, drawn: Drawn) -> Picture:
    if not order.as_url:
        return Picture(seed=drawn.seed, b64_json=base64.b64encode(drawn.file).decode())
    name = service.pictures.put(drawn.file, MEDIA_TYPES[order.picture_format])
    return Picture(seed=drawn.seed, url=str(request.url_for("picture", name=name)))


def server_timing(drawn: Drawn, total: float) -> str:
    """The Server-Timing header (W3C): milliseconds, in the order of the stages."""
    parts = {
        "queue": drawn.timing.queue_seconds,
        **drawn.timing.stages,
        "file": drawn.encode_seconds,
        "total": total,
    }
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())


async def picture(request: Request) -> Response:
    """A picture that an answer with `response_format=url` named. No key: its name is the key."""
    found = service_of(request).pictures.get(request.path_params["name"])
    if found is None:
        raise ApiError(404, "There is no such picture, or it has expired.", code="not_found")
    return Response(
        found.data, headers={"cache-control": "private, no-store"}, media_type=found.media_type
    )
