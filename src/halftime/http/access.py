"""Who may ask: keys, compared in constant time, and no posts from other sites' pages."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from halftime.http.errors import ApiError

API = "/v1/"  # what needs a key, and what a draining server refuses


def matches(secret: str, keys: Iterable[str]) -> bool:
    """Whether `secret` is one of `keys`, in a time that depends neither on where they differ nor on
    lengths."""
    digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    equal = False
    for key in keys:  # all of them, whichever fits
        equal |= hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
    return equal


def bearer(request: Request) -> str:
    """The token after 'Bearer' in the Authorization header, or an empty string."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


class AccessControl:
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
                and scope["path"].startswith(API)
                and not matches(bearer(request), self.keys)
            ):
                raise ApiError(
                    401,
                    "Incorrect API key. Send it as 'Authorization: Bearer KEY'.",
                    code="invalid_api_key",
                )
        await self.app(scope, receive, send)


def _check_origin(request: Request) -> None:
    """Any page that a browser has open may send a multipart post without asking first (CORS):
    refuse it here."""
    origin = request.headers.get("origin")
    if origin is None or request.method in ("GET", "HEAD"):
        return
    if urlsplit(origin).netloc != request.headers.get("host", ""):
        raise ApiError(
            403, "Requests from other sites' pages are refused (CORS is off).", code="cross_origin"
        )
