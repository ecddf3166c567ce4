"""/v1/videos, as OpenAI's videos API: a video is asked for, looked after, fetched and deleted.

Nobody waits on a connection: the job runs on by itself, and its video lives in this process for a
while.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import BinaryIO, assert_never

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from halftime.http.access import CLIENT
from halftime.http.endpoints import json_response
from halftime.http.errors import ApiError
from halftime.records.serve import Certificate
from halftime.verbs.serve import films
from halftime.verbs.serve.draw import Events, submitted
from halftime.verbs.serve.files import checked_picture
from halftime.verbs.serve.film_shelf import Film
from halftime.verbs.serve.messages import Event, Final, Job, JobFailed, Preview, Started, Stepped
from halftime.verbs.serve.queue import nearest_size
from halftime.verbs.serve.request import (
    certificate_of,
    form_body,
    json_body,
    media_type,
    no_such_model,
    size_for,
    steps_for,
)
from halftime.verbs.serve.schema import (
    ANY_SEED,
    MOST_RANDOM,
    VideoDeleted,
    VideoError,
    VideoObject,
    VideoObjects,
    VideoRequest,
)
from halftime.verbs.serve.service import Service, choose_model, service_of

REFERENCE = "input_reference"
_NEAR = 0.5  # seconds: "5" is what 81 frames at 16 a second are
_MOST_LISTED = 100


async def create(request: Request) -> Response:
    """Ask for a video. Answers at once."""
    async with _body(request) as (body, file):
        service = choose_model(request, body.model)
        certificate = _certificate(service, body)
        job = _job(service, certificate, body, request.scope.get(CLIENT, ""))
        if file is not None:
            job = await _starting_from(service, certificate, job, file)
    stack = contextlib.AsyncExitStack()
    (events,) = await stack.enter_async_context(submitted(service, job.client, [job]))
    film = Film(job.client, _about(service, certificate, job))
    service.films.add(film)
    film.task = asyncio.ensure_future(_made(service, film, events, stack))
    return json_response(film.about)


async def retrieve(request: Request) -> Response:
    """What has become of a video."""
    return json_response(_film(request).about)


async def content(request: Request) -> Response:
    """Its file, or with `variant=thumbnail` a picture of it."""
    film, variant = _film(request), request.query_params.get("variant", "video")
    if variant not in ("video", "thumbnail"):
        message = f"variant is {variant!r}; there are 'video' and 'thumbnail'."
        raise ApiError(400, message, code="unsupported_value", param="variant")
    if film.about.status != "completed":
        raise ApiError(
            409,
            f"The video is {film.about.status}, not completed.",
            code="not_completed",
            retry=False,
        )
    headers = {"cache-control": "private, no-store"}
    if variant == "thumbnail":
        return Response(film.thumbnail, headers=headers, media_type=films.THUMBNAIL_TYPE)
    headers["content-disposition"] = f'attachment; filename="{film.about.id}.mp4"'
    return Response(film.file, headers=headers, media_type=films.VIDEO_TYPE)


async def delete(request: Request) -> Response:
    """Forget a video; one that is being made is stopped."""
    film = _film(request)
    service_of(request).films.drop(film)
    return json_response(VideoDeleted(id=film.about.id))


async def videos(request: Request) -> Response:
    """A client's own videos, newest first; `after`, `limit` and `order` as OpenAI has them."""
    query = request.query_params
    everything = service_of(request).films.of(request.scope.get(CLIENT, ""))
    listed = [film.about for film in everything]
    if _choice(query.get("order", "desc"), ("asc", "desc"), "order") == "desc":
        listed.reverse()
    names = [about.id for about in listed]
    after = query.get("after")
    if after is not None:
        if after not in names:
            raise ApiError(400, "There is no such video.", code="invalid_value", param="after")
        listed = listed[names.index(after) + 1 :]
    limit = _limit(query.get("limit", "20"))
    page = listed[:limit]
    return json_response(
        VideoObjects(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(listed) > limit,
        )
    )


def _choice(text: str, allowed: tuple[str, ...], param: str) -> str:
    if text not in allowed:
        message = f"{param} is {text!r}; it must be one of: {', '.join(allowed)}."
        raise ApiError(400, message, code="invalid_value", param=param)
    return text


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MOST_LISTED):
        message = f"limit is {text!r}; it must be 1 to {_MOST_LISTED}."
        raise ApiError(400, message, code="invalid_value", param="limit")
    return int(text)


def _film(request: Request) -> Film:
    """The video that the path names, of whoever asks. Raises ApiError (404)."""
    name, client = request.path_params["name"], request.scope.get(CLIENT, "")
    film = service_of(request).films.get(name, client)
    if film is None:
        raise ApiError(404, "There is no such video, or it has expired.", code="not_found")
    return film


# ---- what is asked for


@contextlib.asynccontextmanager
async def _body(request: Request) -> AsyncIterator[tuple[VideoRequest, BinaryIO | None]]:
    """A form, as OpenAI's client sends one, or JSON."""
    if media_type(request) == "application/json":
        yield await json_body(request, VideoRequest), None
        return
    async with form_body(request, VideoRequest, (REFERENCE,)) as (body, uploads):
        yield body, uploads[REFERENCE][0].file if REFERENCE in uploads else None


def _certificate(service: Service, body: VideoRequest) -> Certificate:
    """The certificate of a server that makes videos. Raises ApiError."""
    certificate = certificate_of(service.engine.status)
    if body.model and body.model not in service.settings.names:
        raise no_such_model(service.settings, body.model)
    if not certificate.frames:
        raise ApiError(
            400,
            f"{certificate.pipeline} makes pictures: ask /v1/images/generations.",
            code="unsupported_operation",
        )
    return certificate


def _job(service: Service, certificate: Certificate, body: VideoRequest, client: str) -> Job:
    width, height = size_for(certificate, body.size)
    seed = secrets.randbelow(MOST_RANDOM) if body.seed in (None, ANY_SEED) else body.seed
    assert seed is not None
    return Job(
        id=f"video_{secrets.token_hex(16)}",
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or None,
        width=width,
        height=height,
        steps=body.steps or steps_for(certificate.steps, "medium"),
        guidance=body.guidance,
        seed=seed,
        frames=frames_for(certificate, body),
        off_list=body.off_list,
        client=client,
        weight=service.quotas.weight(client),
        deadline=time.monotonic() + service.settings.video_seconds,
    )


def frames_for(certificate: Certificate, body: VideoRequest) -> int:
    """How many frames a request asks for: by number, by seconds, or the first number offered. The
    engine snaps or refuses others. Raises ApiError (400) for seconds that no number comes near."""
    if body.frames is not None:
        return body.frames
    if body.seconds is None:
        return certificate.frames[0]
    fps, seconds = certificate.fps or 1.0, float(body.seconds)
    nearest = min(certificate.frames, key=lambda count: abs(count / fps - seconds))
    if abs(nearest / fps - seconds) < _NEAR:
        return nearest
    if body.off_list == "snap":
        return nearest
    lengths = ", ".join(seconds_of(count, fps) for count in certificate.frames)
    raise ApiError(
        400,
        f"{body.seconds} seconds are not offered here; {lengths} are.",
        code="unsupported_value",
        param="seconds",
    )


def seconds_of(frames: int, fps: float) -> str:
    """'5.06' for 81 frames at 16 a second."""
    return f"{frames / fps:.2f}".rstrip("0").rstrip(".")


async def _starting_from(
    service: Service, certificate: Certificate, job: Job, file: BinaryIO
) -> Job:
    """The job with its picture, ready for the worker. Raises ApiError."""
    if not certificate.img2img:
        raise ApiError(
            400,
            f"{certificate.pipeline} does not start from a picture.",
            code="unsupported_operation",
            param=REFERENCE,
        )
    size = nearest_size((job.width, job.height), certificate.sizes)
    async with service.uploads:
        picture = await asyncio.to_thread(checked_picture, file, size)
    return msgspec.structs.replace(job, image=picture)


def _about(service: Service, certificate: Certificate, job: Job) -> VideoObject:
    assert job.frames is not None
    fps = certificate.fps or 1.0
    return VideoObject(
        id=job.id,
        created_at=int(time.time()),
        model=service.settings.model,
        prompt=job.prompt,
        seconds=seconds_of(job.frames, fps),
        size=f"{job.width}x{job.height}",
        seed=job.seed,
        frames=job.frames,
        fps=fps,
    )


# ---- what becomes of it


async def _made(
    service: Service, film: Film, events: Events, stack: contextlib.AsyncExitStack
) -> None:
    """Follow the job to its end, whoever asks meanwhile."""
    try:
        async with stack:
            async for event in events:
                await _noted(service, film, event)
    except asyncio.CancelledError:
        _failed(film, "cancelled", "The video was stopped.")
        raise
    except Exception as error:  # of ours, or of the encoder: nobody else would see it
        _failed(film, "internal", f"Internal error ({type(error).__name__}).")
        service.metrics.refused("internal", None)
    finally:
        service.films.ended(film)


async def _noted(service: Service, film: Film, event: Event) -> None:
    about = film.about
    match event:
        case Started():
            about.status, about.progress = "in_progress", 0
        case Stepped():
            about.progress = min(99, 100 * event.step // event.steps)
        case Final():
            await _finished(service, film, event)
        case JobFailed():
            _failed(film, event.kind, event.message)
            service.metrics.refused(event.kind, None)
        case Preview():
            pass
        case _:
            assert_never(event)


async def _finished(service: Service, film: Film, final: Final) -> None:
    about = film.about
    service.metrics.picture_drawn(final, film.client if service.settings.has_keys else None)
    begun = time.perf_counter()
    size = (final.width, final.height)
    film.file = await asyncio.to_thread(films.mp4, final.pixels, *size, about.fps)
    film.thumbnail = await asyncio.to_thread(films.thumbnail, final.pixels, *size)
    service.metrics.stage_seconds.labels("file").observe(time.perf_counter() - begun)
    about.frames = final.frames or about.frames
    about.size, about.seconds = f"{size[0]}x{size[1]}", seconds_of(about.frames, about.fps)
    about.compute_seconds = final.compute_seconds
    about.completed_at = int(time.time())
    about.expires_at = about.completed_at + int(service.films.lifetime)
    about.status, about.progress = "completed", 100


def _failed(film: Film, code: str, message: str) -> None:
    film.about.status = "failed"
    film.about.error = VideoError(code=code, message=message)
