"""/profile: the profiler on the live server, for whoever holds the token; off where the environment
has no token."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from halftime.http.access import bearer, matches
from halftime.http.errors import JSON, ApiError
from halftime.verbs.serve.bodies import json_body
from halftime.verbs.serve.profiled import MOST_KEPT
from halftime.verbs.serve.service import PROFILE_TOKEN, Service, service_of


class ProfileStart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many of the next pictures to profile."""

    pictures: Annotated[int, Meta(ge=1, le=MOST_KEPT)] = 1


class ProfileState(msgspec.Struct, kw_only=True):
    """`waiting` pictures are still to be profiled; `sessions` are what `halftime profile --json`
    writes."""

    waiting: int
    sessions: list[msgspec.Raw]


async def start(request: Request) -> Response:
    """The next pictures are drawn with the profiler on, alone in their batch."""
    service = _allowed(request)
    service.profiled.start((await json_body(request, ProfileStart)).pictures)
    return _state(service)


async def stop(request: Request) -> Response:
    """No further ones; the sessions of those that were."""
    service = _allowed(request)
    waiting, sessions = service.profiled.wanted, service.profiled.stop()
    return _encoded(waiting, sessions)


async def state(request: Request) -> Response:
    """The sessions so far; profiling goes on."""
    return _state(_allowed(request))


def _allowed(request: Request) -> Service:
    service = service_of(request)
    token = service.settings.profile_token
    if not token:
        raise ApiError(
            404, f"Profiling is off: {PROFILE_TOKEN} was not set at start.", code="profiling_off"
        )
    if not matches(bearer(request), (token,)):
        raise ApiError(
            401, "Send the profiling token as 'Authorization: Bearer TOKEN'.", code="invalid_token"
        )
    return service


def _state(service: Service) -> Response:
    return _encoded(service.profiled.wanted, list(service.profiled.sessions))


def _encoded(waiting: int, sessions: list[bytes]) -> Response:
    body = ProfileState(waiting=waiting, sessions=[msgspec.Raw(each) for each in sessions])
    return Response(msgspec.json.encode(body), media_type=JSON)
