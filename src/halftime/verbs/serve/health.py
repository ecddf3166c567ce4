"""/readyz: the warm-up certificate, 503 until there is one. /v1/models, /metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from halftime.http.endpoints import ModelObject, json_response, models_response
from halftime.http.errors import ApiError
from halftime.verbs.serve.offer import readiness_of
from halftime.verbs.serve.service import service_of


async def readyz(request: Request) -> Response:
    """What is warm, and why not yet where it is not."""
    readiness = readiness_of(service_of(request))
    ready = readiness.state == "ready"
    headers = {"cache-control": "no-store"} | ({} if ready else {"retry-after": "2"})
    return json_response(readiness, 200 if ready else 503, headers)


async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    return service_of(request).metrics.response()


async def models(request: Request) -> Response:
    """The one model, as OpenAI's client lists it."""
    return models_response([service_of(request).settings.model])


async def model(request: Request) -> Response:
    """The one model by its name."""
    name, served = request.path_params["name"], service_of(request).settings.model
    if name != served:
        raise ApiError(
            404,
            f"The model {name!r} does not exist here; this server draws with {served!r}.",
            code="model_not_found",
            param="model",
        )
    return json_response(ModelObject(id=served))
