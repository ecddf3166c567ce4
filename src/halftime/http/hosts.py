"""To whom a request is addressed: a page whose name was made to point at this machine (DNS
rebinding) asks under that name, and is refused."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from halftime.http.errors import ApiError

# Headers that a request may carry once: of two, each reader on the way might take another one.
_ONCE = (b"host", b"authorization", b"content-type", b"content-length", b"origin")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")


class HostCheck:
    """ASGI middleware: `Host` must be one of `hosts`, or the address that the connection came in
    at. Empty: any."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, frozenset(map(plain, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_once(scope)
            if self.hosts:
                self._check(scope)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        name = host_of(scope)
        server = scope.get("server")
        own_address = server is not None and is_address(name) and name == plain(server[0])
        if name not in self.hosts and not own_address:
            raise ApiError(
                421,
                f"This server does not answer for the host {name!r}. Whoever runs it can allow it: "
                "--allow-host.",
                code="unknown_host",
            )


def host_of(scope: Scope) -> str:
    """The name or address in the Host header, without its port. Raises ApiError (400)."""
    text = next((value for name, value in scope["headers"] if name == b"host"), b"")
    match = _HOST.fullmatch(text.decode("latin-1").lower())
    if match is None:
        raise ApiError(400, "The Host header is missing or no host.", code="invalid_host")
    return plain(match["name"])


def plain(host: str) -> str:
    """'[::1]' -> '::1', 'Example.com.' -> 'example.com'."""
    return host.lower().strip("[]").rstrip(".")


def is_address(host: str) -> bool:
    """Whether this is an IP address, which no name server can turn into another one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_once(scope: Scope) -> None:
    counts = Counter(name for name, _ in scope["headers"] if name in _ONCE)
    twice = min((name for name, count in counts.items() if count > 1), default=None)
    if twice is not None:
        header = twice.decode()
        raise ApiError(400, f"The header {header!r} was sent twice.", code="duplicate_header")
