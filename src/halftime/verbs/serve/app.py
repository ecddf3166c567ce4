"""The ASGI application. What is served, and what a request passes on its way, in two lists."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from halftime.http.access import AccessControl
from halftime.http.endpoints import by_method, healthz
from halftime.http.errors import ERROR_HANDLERS
from halftime.http.hosts import HostCheck
from halftime.http.limits import LimitedBodies
from halftime.http.traffic import Observed
from halftime.verbs.serve import health, images, openapi, page, profiling, videos
from halftime.verbs.serve.quotas import all_keys
from halftime.verbs.serve.service import DrawingEngine, HttpSettings, Service

logger = logging.getLogger("halftime.serve")


ROUTES = (
    Route("/v1/images/generations", images.generate, methods=["POST"]),
    Route("/v1/images/edits", images.edit, methods=["POST"]),
    Route("/v1/images/variations", images.vary, methods=["POST"]),
    Route("/v1/videos", by_method(POST=videos.create, GET=videos.videos), methods=["POST", "GET"]),
    Route(
        "/v1/videos/{name}",
        by_method(GET=videos.retrieve, DELETE=videos.delete),
        methods=["GET", "DELETE"],
    ),
    Route("/v1/videos/{name}/content", videos.content, methods=["GET"]),
    Route("/v1/models", health.models, methods=["GET"]),
    Route("/v1/models/{name:path}", health.model, methods=["GET"]),
    Route("/pictures/{name}", images.picture, methods=["GET"], name="picture"),
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", health.readyz, methods=["GET"]),
    Route("/metrics", health.metrics, methods=["GET"]),
    Route("/profile", profiling.state, methods=["GET"]),
    Route("/profile/start", profiling.start, methods=["POST"]),
    Route("/profile/stop", profiling.stop, methods=["POST"]),
    Route("/openapi.json", openapi.openapi, methods=["GET"]),
    Route("/", page.index, methods=["GET"]),
    Route("/page/{name}", page.asset, methods=["GET"]),
)


def application(engine: DrawingEngine, settings: HttpSettings) -> Starlette:
    """The server as an ASGI application; its lifespan starts the engine in the background and
    drains it at the end.

    It answers /healthz and /readyz while the engine warms up, and everything that draws with 503
    until it is ready.
    """
    service = Service(engine, settings)
    app = Starlette(
        routes=ROUTES,
        middleware=[  # the first sees a request first
            Middleware(Observed, traffic=service.traffic),
            Middleware(HostCheck, hosts=settings.hosts),
            Middleware(AccessControl, keys=all_keys(settings.api_keys, settings.keys)),
            Middleware(
                LimitedBodies,
                most=settings.most_body,
                seconds=settings.body_seconds,
                together=settings.most_bodies,
            ),
        ],
        exception_handlers=ERROR_HANDLERS,
        lifespan=_lifespan,
    )
    app.state.service = service
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    starting = asyncio.ensure_future(_started(service))
    try:
        yield
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not service.traffic.draining:
            await service.engine.drain(service.settings.drain_seconds)
        await service.films.close()


async def _started(service: Service) -> None:
    """A warm-up that fails is shown by /readyz; the process stays, so that somebody can look."""
    try:
        await service.engine.start()
    except asyncio.CancelledError:
        raise
    except Exception:
        logger.exception("the engine could not start")
