"""Keys: optional, from the environment, compared in constant time; and no posts from other sites'
pages."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from halftime.verbs.serve.errors_http import ApiError

API_KEY = "HALFTIME_API_KEY"  # one, or several with commas between
PROFILE_TOKEN = "HALFTIME_PROFILE_TOKEN"
GUARDED = "/v1/"


def matches(given: str, keys: Iterable[str]) -> bool:
    """Whether `given` is one of `keys`, in a time that depends neither on the place of a difference
    nor on lengths."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
    found = False
    for key in keys:  # all of them, whichever fits
        found |= hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
    return found


def bearer(request: Request) -> str:
    """What stands after 'Bearer' in the Authorization header, or nothing."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


class KeysAndOrigins:
    """ASGI middleware: /v1 needs a key where keys are set, and a browser's post must come from this
    server's page."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            _check_origin(request)
            if (
                self.keys
                and scope["path"].startswith(GUARDED)
                and not matches(bearer(request), self.keys)
            ):
                raise ApiError(
                    401,
                    "Incorrect API key. Send it as 'Authorization: Bearer KEY'.",
                    code="invalid_api_key",
                )
        await self.app(scope, receive, send)


def _check_origin(request: Request) -> None:
    """Multipart posts need no leave of ours to be sent by any page that a browser has open: refuse
    them here."""
    origin = request.headers.get("origin")
    if origin is None or request.method in ("GET", "HEAD"):
        return
    if urlsplit(origin).netloc != request.headers.get("host", ""):
        raise ApiError(
            403, "Requests from other sites' pages are refused (CORS is off).", code="cross_origin"
        )
