"""/healthz: the process answers. /readyz: the warm-up certificate, 503 until it stands. /v1/models,
/metrics."""

from __future__ import annotations

import time

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from halftime.verbs.serve.errors_http import JSON, ApiError
from halftime.verbs.serve.offer import readiness_of
from halftime.verbs.serve.schema import Model, ModelList
from halftime.verbs.serve.service import service_of

_STARTED = int(time.time())


async def healthz(_: Request) -> Response:
    """The event loop runs; says nothing about the worker."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """What is warm, and why not yet where it is not."""
    service = service_of(request)
    told = readiness_of(service)
    ready = told.state == "ready"
    headers = {"cache-control": "no-store"} | ({} if ready else {"retry-after": "2"})
    return Response(msgspec.json.encode(told), 200 if ready else 503, headers, JSON)


async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    text = generate_latest(service_of(request).metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def models(request: Request) -> Response:
    """The one model, as OpenAI's client lists it."""
    return Response(msgspec.json.encode(ModelList(data=[_model(request)])), media_type=JSON)


async def model(request: Request) -> Response:
    """The one model by its name."""
    one, name = _model(request), request.path_params["name"]
    if name != one.id:
        raise ApiError(
            404,
            f"The model {name!r} does not exist here; this server draws with {one.id!r}.",
            code="model_not_found",
            param="model",
        )
    return Response(msgspec.json.encode(one), media_type=JSON)


def _model(request: Request) -> Model:
    return Model(id=service_of(request).settings.model, created=_STARTED)
