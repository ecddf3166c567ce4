"""The optional packages of this verb, imported on use."""

from __future__ import annotations

import importlib
import ssl
from types import ModuleType

from halftime.base.extras import optional


def need(name: str) -> ModuleType:
    """Import a package of the extra `gateway`. Raises MissingExtra."""
    return optional(name, "gateway", "halftime gateway")


def load_ca_bundle() -> None:
    """What an HTTP client does once when it is created. Raises ImportError without certifi."""
    ssl.create_default_context(cafile=importlib.import_module("certifi").where())
