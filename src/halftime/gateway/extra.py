"""The optional packages of this verb, imported on use."""

from __future__ import annotations

import importlib
from types import ModuleType

from halftime.errors import MissingExtra


def need(name: str) -> ModuleType:
    """Import a package of the extra `gateway`. Raises MissingExtra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(name, "gateway", "halftime gateway") from error
