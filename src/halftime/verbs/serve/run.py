"""`serve` from Python."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

from halftime.base.extras import optional
from halftime.base.listening import listening_socket

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from halftime.verbs.serve.messages import EngineSettings
    from halftime.verbs.serve.service import DrawingEngine, HttpSettings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
NEEDED = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


def check_installed() -> None:
    """Raises MissingExtra, which names `halftime[serve]`, where one of its packages is missing."""
    for package in NEEDED:
        optional(package, "serve", "halftime serve")


def hosts_for(address: str, allowed: Sequence[str] = ()) -> tuple[str, ...]:
    """The names under which clients may ask a server at this address. On a loopback address only
    its own: a page on the network whose name points here (DNS rebinding) must not reach it."""
    loopback = LOOPBACK if address in LOOPBACK or address.startswith("127.") else ()
    return (*loopback, *allowed)


def serve(
    engine: EngineSettings | None = None,
    http: HttpSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> int:
    """Serve until SIGTERM or SIGINT. 0: every accepted request has been answered; 1: the drain ran
    out of time; 2: the engine cannot draw, now or ever.

    Raises BadInput where the address cannot be listened on, MissingExtra without `halftime[serve]`.
    To put the server into another ASGI application, use
    `halftime.verbs.serve.app.application(engine, settings)`.
    """
    check_installed()
    from halftime.http.server import STALLED_SECONDS
    from halftime.verbs.serve.engine import Engine
    from halftime.verbs.serve.messages import EngineSettings
    from halftime.verbs.serve.service import HttpSettings

    listener = listening_socket(host, port, stalled_seconds=STALLED_SECONDS)
    return run(
        Engine(engine or EngineSettings()), http or HttpSettings(hosts=hosts_for(host)), listener
    )


def run(
    engine: DrawingEngine,
    settings: HttpSettings,
    listener: socket.socket,
    watch: Callable[[DrawingEngine], Coroutine[None, None, None]] | None = None,
    wrap: Callable[[ASGIApp], ASGIApp] | None = None,
) -> int:
    """Serve with this engine on this socket; the exit code, as of `serve`.

    `watch` runs beside the server, for example to report the warm-up on the screen; `wrap` puts
    something around the application, for example tracing.
    """
    from halftime.http import server
    from halftime.verbs.serve.app import application

    app = application(engine, settings)
    backend = server.Backend(
        drain=engine.drain,
        failed=lambda: engine.status.state == "failed",
        watch=None if watch is None else lambda: watch(engine),
    )
    outer = app if wrap is None else wrap(app)
    return server.run(outer, listener, app.state.service.traffic, backend)
