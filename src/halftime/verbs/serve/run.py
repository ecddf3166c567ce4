"""`serve` from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.base.extras import optional

if TYPE_CHECKING:
    from halftime.verbs.serve.messages import EngineSettings
    from halftime.verbs.serve.service import HttpSettings

NEEDED = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


def check_installed() -> None:
    """Raises MissingExtra, which names `halftime[serve]`, where one of its packages is missing."""
    for package in NEEDED:
        optional(package, "serve", "halftime serve")


def serve(
    engine: EngineSettings | None = None,
    http: HttpSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> int:
    """Serve until SIGTERM or SIGINT. 0: everything that was accepted has been answered; 1: the
    drain ran out of time.

    Raises BadInput where the address cannot be listened on, MissingExtra without `halftime[serve]`.
    To put the server into another ASGI application, use
    `halftime.verbs.serve.app.application(engine, settings)`.
    """
    check_installed()
    from halftime.verbs.serve.engine import Engine
    from halftime.verbs.serve.messages import EngineSettings
    from halftime.verbs.serve.server import listening, run
    from halftime.verbs.serve.service import HttpSettings

    return run(Engine(engine or EngineSettings()), http or HttpSettings(), listening(host, port))
