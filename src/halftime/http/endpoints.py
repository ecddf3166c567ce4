"""Endpoints and answers that every server of ours has: JSON, /healthz, /v1/models."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from halftime.http.errors import JSON

Endpoint = Callable[[Request], Awaitable[Response]]
_STARTED = int(time.time())


class ModelObject(msgspec.Struct, kw_only=True):
    """A model that this server answers for, as OpenAI's API lists it."""

    id: str
    created: int = _STARTED
    object: Literal["model"] = "model"
    owned_by: str = "halftime"


class ModelObjects(msgspec.Struct, kw_only=True):
    """GET /v1/models."""

    data: list[ModelObject]
    object: Literal["list"] = "list"


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`body`, a msgspec.Struct or plain data, as JSON."""
    return Response(msgspec.json.encode(body), status, headers, JSON)


def by_method(**endpoints: Endpoint) -> Endpoint:
    """One endpoint of several: a path with two routes would name the methods of one alone in its
    `Allow`. HEAD is GET without a body."""

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return endpoint


async def healthz(_: Request) -> Response:
    """The event loop runs; says nothing about what works behind it."""
    return PlainTextResponse("ok\n")


def models_response(names: Iterable[str]) -> Response:
    """The models of these names, as OpenAI's client lists them."""
    return json_response(ModelObjects(data=[ModelObject(id=name) for name in names]))
