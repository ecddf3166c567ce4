"""Who may ask: keys, compared in constant time, and no posts from other sites' pages."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from halftime.http.errors import ApiError

API = "/v1/"  # what needs a key, and what a draining server refuses

KEY = "halftime.key"  # in the scope: the name of the key that was sent
CLIENT = "halftime.client"  # in the scope: that name, or where there are no keys the address


class ApiKey(NamedTuple):
    """A key, and the name under which its use is counted."""

    name: str
    secret: str


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
    server's page. Whose the request is stands in the scope afterwards."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey | str]) -> None:
        self.app = app
        self.keys = [
            key if isinstance(key, ApiKey) else ApiKey(f"key-{number}", key)
            for number, key in enumerate(keys, 1)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            _check_origin(request)
            scope[CLIENT] = address_of(scope)
            if self.keys and scope["path"].startswith(API):
                scope[KEY] = scope[CLIENT] = self._name_of(bearer(request))
        await self.app(scope, receive, send)

    def _name_of(self, secret: str) -> str:
        """The name of a key. Raises ApiError (401)."""
        names = [key.name for key in self.keys if matches(secret, (key.secret,))]
        if not names:
            raise ApiError(
                401,
                "Incorrect API key. Send it as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
            )
        return names[0]


def address_of(scope: Scope) -> str:
    """The client's address; of an IPv6 one the network, since a client has 2**64 of them."""
    text = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return str(text)
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


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
