"""/profile: the profiler on the live server, for whoever holds the token; off where the environment
has no token."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from halftime.http.access import bearer, matches
from halftime.http.endpoints import json_response
from halftime.http.errors import ApiError
from halftime.verbs.serve.request import json_body
from halftime.verbs.serve.service import (
    MOST_SESSIONS,
    PROFILE_TOKEN,
    LiveProfiler,
    service_of,
)


class ProfileStart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many of the next pictures to profile."""

    pictures: Annotated[int, Meta(ge=1, le=MOST_SESSIONS)] = 1


class ProfileState(msgspec.Struct, kw_only=True):
    """`waiting` pictures are still to be profiled; `sessions` are what `halftime profile --json`
    writes."""

    waiting: int
    sessions: list[msgspec.Raw]


async def start(request: Request) -> Response:
    """The next pictures are drawn with the profiler on, alone in their batch."""
    profiler = _allowed(request)
    profiler.start((await json_body(request, ProfileStart)).pictures)
    return _state(profiler.waiting, [])


async def stop(request: Request) -> Response:
    """No further ones; the sessions of those that were."""
    profiler = _allowed(request)
    return _state(profiler.waiting, profiler.stop())


async def state(request: Request) -> Response:
    """The sessions so far; profiling goes on."""
    profiler = _allowed(request)
    return _state(profiler.waiting, list(profiler.sessions))


def _allowed(request: Request) -> LiveProfiler:
    """The profiler, for whoever holds the token. Raises ApiError."""
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
    return service.profiler


def _state(waiting: int, sessions: list[bytes]) -> Response:
    raw_sessions = [msgspec.Raw(session) for session in sessions]
    return json_response(ProfileState(waiting=waiting, sessions=raw_sessions))
