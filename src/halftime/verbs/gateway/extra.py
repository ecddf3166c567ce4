"""The optional packages of this verb, imported on use."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from collections.abc import Coroutine
from types import ModuleType
from typing import Any, TypeVar

from halftime.base.errors import MissingExtra
from halftime.base.extras import optional

T = TypeVar("T")


def need(name: str) -> ModuleType:
    """Import a package of the extra `gateway`. Raises MissingExtra."""
    return optional(name, "gateway", "halftime gateway")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, by uvloop, which is faster and does not exist for Windows. Raises
    MissingExtra."""
    if sys.platform == "win32":
        return asyncio.run(main)
    try:
        uvloop = need("uvloop")
    except MissingExtra:
        main.close()  # or Python warns that it was never awaited
        raise
    result: T = uvloop.run(main)
    return result


def load_ca_bundle() -> None:
    """What an HTTP client does once when it is created. Raises ImportError without certifi."""
    ssl.create_default_context(cafile=importlib.import_module("certifi").where())
