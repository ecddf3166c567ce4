"""The optional packages of this verb."""

from __future__ import annotations

from types import ModuleType

from halftime.base.extras import optional

_SERVED_WITH = ("aiohttp", "prometheus_client", "pybase64", "starlette", "uvicorn")


def need(name: str) -> ModuleType:
    """Import a package of the extra `captions`. Raises MissingExtra."""
    return optional(name, "captions", "halftime captions")


def check_installed() -> None:
    """Raises MissingExtra where a package is missing that asking models or serving needs."""
    for name in _SERVED_WITH:
        need(name)
