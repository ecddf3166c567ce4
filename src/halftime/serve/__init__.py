"""`serve`: an image server: warm before ready, preview then final, nothing lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.verbs import callable_package

if TYPE_CHECKING:
    from halftime.serve.messages import EngineSettings
    from halftime.serve.service import HttpSettings

__all__ = ["serve"]


def serve(
    engine: EngineSettings | None = None, http: HttpSettings | None = None, *, host: str = "127.0.0.1", port: int = 8000
) -> int:
    """Serve until SIGTERM or SIGINT. 0: everything that was accepted has been answered; 1: the drain ran out of time.

    Raises BadInput where the address cannot be listened on, MissingExtra without `halftime[serve]`. To put the server
    into another ASGI application, use `halftime.serve.app.application(engine, settings)`.
    """
    from halftime.extras import optional

    for package in NEEDED:
        optional(package, "serve", "halftime serve")
    from halftime.serve.engine import Engine
    from halftime.serve.messages import EngineSettings
    from halftime.serve.server import listening, run
    from halftime.serve.service import HttpSettings

    return run(Engine(engine or EngineSettings()), http or HttpSettings(), listening(host, port))


NEEDED = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


callable_package(__name__, serve)
