"""From a request to its pictures: submit the jobs, follow their events, and word what went wrong
for the client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from halftime.http.errors import ApiError
from halftime.verbs.serve.files import encode
from halftime.verbs.serve.messages import (
    Event,
    Final,
    Job,
    JobFailed,
    NotAccepted,
    NotReady,
    Preview,
    QueueFull,
)
from halftime.verbs.serve.request import COMES_BACK, PictureRequest
from halftime.verbs.serve.schema import PictureTiming, Timing, Usage
from halftime.verbs.serve.service import Service

Events = AsyncIterator[Event]


@dataclass(frozen=True)
class DrawnPicture:
    """One picture as the client gets it, and what its drawing took."""

    file: bytes
    size: str
    seed: int
    encode_seconds: float
    timing: PictureTiming


@contextlib.asynccontextmanager
async def submitted(
    service: Service, client: str, jobs: Sequence[Job]
) -> AsyncIterator[list[Events]]:
    """The events of every job, in order; either all are accepted or none. What is not finished at
    the end of the block is cancelled. Raises ApiError."""
    try:
        service.quotas.take(client, len(jobs))
    except ApiError:
        service.profiler.give_back(jobs)
        raise
    try:
        streams = list(service.engine.submit_all(jobs))
    except NotAccepted as error:
        service.quotas.done(client, len(jobs), refused=True)
        service.profiler.give_back(jobs)
        raise refusal(error) from error
    try:
        yield streams
    finally:
        service.quotas.done(client, len(jobs))
        await close_all(streams)


async def close_all(streams: Sequence[Events]) -> None:
    """Cancel what is still being drawn; a finished one does not mind."""
    for stream in streams:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


async def draw_all(service: Service, request: PictureRequest) -> list[DrawnPicture]:
    """All pictures of a request. A failure of one cancels the others. Raises ApiError."""
    async with submitted(service, request.client, request.jobs) as streams:
        tasks = [
            asyncio.ensure_future(_draw(service, request, job, stream))
            for job, stream in zip(request.jobs, streams, strict=True)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _draw(
    service: Service, request: PictureRequest, job: Job, stream: Events
) -> DrawnPicture:
    async for event in stream:
        if isinstance(event, Final):
            return await finished(service, request, job, event)
        if isinstance(event, JobFailed):
            raise failure(event)
    raise ApiError(500, "The engine ended without an answer.", code="internal")


async def finished(
    service: Service, request: PictureRequest, job: Job, final: Final
) -> DrawnPicture:
    """The final as a file, counted. Encoding runs in a thread: a large PNG takes as long as a
    preview."""
    by_key = request.client if service.settings.has_keys else None
    service.metrics.picture_drawn(final, by_key)
    for stage, before in request.before.items():
        service.metrics.stage_seconds.labels(stage).observe(before)
    if final.session:
        service.profiler.sessions.append(final.session)
    begun = time.perf_counter()
    file = await encoded(final, request)
    seconds = time.perf_counter() - begun
    service.metrics.stage_seconds.labels("file").observe(seconds)
    timing = PictureTiming(
        seed=job.seed,
        width=final.width,
        height=final.height,
        steps=final.steps,
        queue_seconds=final.queue_seconds,
        compute_seconds=final.compute_seconds,
        batch_size=final.batch_size,
        stages=final.stages,
    )
    return DrawnPicture(file, f"{final.width}x{final.height}", job.seed, seconds, timing)


async def encoded(picture: Final | Preview, request: PictureRequest) -> bytes:
    """A picture as a file in the format asked for."""
    width, height = picture.width, picture.height
    return await asyncio.to_thread(
        encode, picture.pixels, width, height, request.picture_format, request.compression
    )


def usage(request: PictureRequest, pictures: Sequence[DrawnPicture]) -> Usage:
    """The timings of a request; of several pictures the slowest, since they are drawn side by
    side."""
    slowest = slowest_of([picture.timing for picture in pictures])
    file = next(picture.encode_seconds for picture in pictures if picture.timing is slowest)
    total = time.perf_counter() - request.begun
    stages = [*request.before.values(), slowest.queue_seconds, slowest.compute_seconds, file]
    return Usage(
        halftime=Timing(
            seconds=total,
            receive_seconds=request.before.get("receive", 0.0),
            upload_seconds=request.before.get("upload", 0.0),
            queue_seconds=slowest.queue_seconds,
            compute_seconds=slowest.compute_seconds,
            encode_seconds=file,
            rest_seconds=max(0.0, total - sum(stages)),
            pictures=[picture.timing for picture in pictures],
        )
    )


def slowest_of(timings: Sequence[PictureTiming]) -> PictureTiming:
    """The picture that the others' request waited for."""
    return max(timings, key=lambda timing: timing.queue_seconds + timing.compute_seconds)


def parts_of(timing: Timing) -> dict[str, float]:
    """Part of the request -> seconds, of the slowest picture: in the order of the stages, which add
    up to the total."""
    slowest = slowest_of(timing.pictures)
    return {
        "receive": timing.receive_seconds,
        "upload": timing.upload_seconds,
        "queue": slowest.queue_seconds,
        **slowest.stages,
        "file": timing.encode_seconds,
        "rest": timing.rest_seconds,
    }


def refusal(error: NotAccepted) -> ApiError:
    """What the engine would not begin."""
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, NotReady):
        again = error.ready_in or COMES_BACK
        return ApiError(503, str(error), code="not_ready", retry_after=again)
    return ApiError(400, str(error), code="refused", param=getattr(error, "param", None))


def failure(failed: JobFailed) -> ApiError:
    """What the engine began and could not finish."""
    match failed.kind:
        case "bad_request":
            return ApiError(400, failed.message, code="refused")
        case "deadline":
            return ApiError(504, failed.message, code="deadline_exceeded", retry=False)
        case "crashed" | "cancelled" | "draining":
            again = COMES_BACK if failed.retryable else None
            return ApiError(
                503, failed.message, code=failed.kind, retry_after=again, retry=failed.retryable
            )
        case "queue_full":
            return ApiError(429, failed.message, code="queue_full", retry_after=failed.retry_after)
        case "not_ready":
            again = failed.retry_after or COMES_BACK
            return ApiError(503, failed.message, code="not_ready", retry_after=again)
        case "internal":
            return ApiError(500, failed.message, code="internal", retry=failed.retryable)
        case _:
            assert_never(failed.kind)
