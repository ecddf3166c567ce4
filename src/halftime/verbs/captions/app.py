"""The ASGI application of `captions serve`: three pages of its own, and the pass-through."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from halftime.http.endpoints import json_response, models_response
from halftime.http.errors import ERROR_HANDLERS
from halftime.http.limits import LimitedBodies
from halftime.http.traffic import Observed, Traffic
from halftime.verbs.captions.passthrough import PassThrough, PassThroughSettings

MOST_BODY = 64 * 2**20  # bytes


def application(settings: PassThroughSettings) -> Starlette:
    """The pass-through as an ASGI application; `app.state.traffic` is what its server drains."""
    passthrough = PassThrough(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await passthrough.close()

    # A client waits as long as an upstream may be silent, and so may a client that reads.
    seconds = settings.timeout
    traffic = Traffic(passthrough.metrics, drain_seconds=seconds, send_seconds=seconds)
    app = Starlette(
        routes=[
            Route("/healthz", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/{path:path}", passthrough),  # every other path and method
        ],
        middleware=[  # the first sees a request first
            Middleware(Observed, traffic=traffic),
            Middleware(LimitedBodies, most=MOST_BODY, seconds=None),
        ],
        exception_handlers=ERROR_HANDLERS,
        lifespan=lifespan,
    )
    app.state.passthrough, app.state.traffic = passthrough, traffic
    return app


async def health(request: Request) -> Response:
    """GET /healthz: whether a certificate exists, and what has drifted."""
    passthrough: PassThrough = request.app.state.passthrough
    models = passthrough.settings.routed_models
    return json_response(
        {
            "status": "ok",
            "certified": any(model.router.threshold is not None for model in models),
            "mode": models[0].router.mode,
            "alarms": passthrough.alarms,
        }
    )


async def metrics(request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    passthrough: PassThrough = request.app.state.passthrough
    return passthrough.metrics.response()


async def models(request: Request) -> Response:
    """GET /v1/models: the routed name, and both models behind it."""
    passthrough: PassThrough = request.app.state.passthrough
    settings = passthrough.settings
    behind = [model.upstream.model for model in settings.routed_models]
    return models_response((settings.name, *behind, settings.large.model))
