"""Optional packages: imported on use, and their absence said in words that can be acted on."""

from __future__ import annotations

import importlib
from types import ModuleType

from halftime.errors import MissingExtra


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, or MissingExtra, which names `halftime[EXTRA]`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], extra, purpose) from error
