"""From an order to its pictures: submit the jobs, follow their events, and word what went wrong for
the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from halftime.http.errors import ApiError
from halftime.verbs.serve.encode import encode
from halftime.verbs.serve.messages import (
    Event,
    Failed,
    Final,
    Job,
    NotReady,
    Preview,
    QueueFull,
    Refused,
)
from halftime.verbs.serve.order import Order
from halftime.verbs.serve.schema import PictureTiming, Timing, Usage
from halftime.verbs.serve.service import Service

Events = AsyncIterator[Event]
_COMES_BACK = 2.0  # seconds after which a worker that died is usually ready again


@dataclass(frozen=True)
class Drawn:
    """One picture as the client gets it, and what its drawing took."""

    file: bytes
    size: str
    seed: int
    encode_seconds: float
    timing: PictureTiming


async def submit_all(service: Service, jobs: Sequence[Job]) -> list[Events]:
    """The events of every job, in order; either all are accepted or none. Raises ApiError."""
    streams: list[Events] = []
    try:
        for job in jobs:
            streams.append(service.engine.submit(job))
    except (QueueFull, NotReady, Refused) as error:
        await close_all(streams)
        service.profiled.wanted += sum(job.profile for job in jobs)
        raise refusal(error) from error
    return streams


async def close_all(streams: Sequence[Events]) -> None:
    """Cancel what is still being drawn; a finished one does not mind."""
    for stream in streams:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


async def draw_all(service: Service, order: Order) -> list[Drawn]:
    """All pictures of an order. A failure of one cancels the others. Raises ApiError."""
    streams = await submit_all(service, order.jobs)
    tasks = [
        asyncio.ensure_future(_draw(service, order, job, stream))
        for job, stream in zip(order.jobs, streams, strict=True)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_all(streams)


async def _draw(service: Service, order: Order, job: Job, stream: Events) -> Drawn:
    async for event in stream:
        if isinstance(event, Final):
            return await finished(service, order, job, event)
        if isinstance(event, Failed):
            raise failure(event)
    raise ApiError(500, "The engine ended without an answer.", code="internal")


async def finished(service: Service, order: Order, job: Job, final: Final) -> Drawn:
    """The final as a file, counted. Encoding runs in a thread: a large PNG takes as long as a
    preview."""
    service.metrics.picture_drawn(final)
    if final.session:
        service.profiled.keep(final.session)
    begun = time.perf_counter()
    file = await encoded(final, order)
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
    return Drawn(file, f"{final.width}x{final.height}", job.seed, seconds, timing)


async def encoded(picture: Final | Preview, order: Order) -> bytes:
    """A picture as a file in the format asked for."""
    width, height = picture.width, picture.height
    return await asyncio.to_thread(
        encode, picture.pixels, width, height, order.picture_format, order.compression
    )


def usage(order: Order, drawn: Sequence[Drawn]) -> Usage:
    """The timings of a request; of several pictures the slowest, since they are drawn side by
    side."""
    return Usage(
        halftime=Timing(
            seconds=time.perf_counter() - order.begun,
            queue_seconds=max(each.timing.queue_seconds for each in drawn),
            compute_seconds=max(each.timing.compute_seconds for each in drawn),
            encode_seconds=max(each.encode_seconds for each in drawn),
            pictures=[each.timing for each in drawn],
        )
    )


def refusal(error: QueueFull | NotReady | Refused) -> ApiError:
    """What the engine would not begin."""
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, NotReady):
        return ApiError(503, str(error), code="not_ready", retry_after=_COMES_BACK)
    return ApiError(400, str(error), code="refused")


def failure(failed: Failed) -> ApiError:
    """What the engine began and could not finish."""
    match failed.kind:
        case "bad_request":
            return ApiError(400, failed.message, code="refused")
        case "deadline":
            return ApiError(504, failed.message, code="deadline_exceeded", retry=False)
        case "crashed" | "cancelled" | "draining":
            again = _COMES_BACK if failed.retryable else None
            return ApiError(
                503, failed.message, code=failed.kind, retry_after=again, retry=failed.retryable
            )
        case "internal":
            return ApiError(500, failed.message, code="internal", retry=failed.retryable)
        case _:
            assert_never(failed.kind)
