"""The page at /: files of this package, nothing from the network, and a policy that lets nothing
else in."""

from __future__ import annotations

from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from halftime.http.errors import ApiError

# Only these are served; a name from a request never becomes a path.
ASSETS = {
    "page.css": "text/css",
    "main.js": "text/javascript",
    "stream.js": "text/javascript",
    "times.js": "text/javascript",
    "ready.js": "text/javascript",
    "gallery.js": "text/javascript",
    "history.js": "text/javascript",
    "snippet.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


async def index(_: Request) -> Response:
    """The page."""
    return Response(_read("index.html"), headers=_HEADERS, media_type="text/html")


async def asset(request: Request) -> Response:
    """One of its files."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise ApiError(404, "There is no such file.", code="not_found")
    return Response(_read(name), headers=_HEADERS, media_type=ASSETS[name])


@cache
def _read(name: str) -> bytes:
    return resources.files("halftime.verbs.serve").joinpath("assets", name).read_bytes()
