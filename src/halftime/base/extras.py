"""Optional packages: imported on use, and their absence said in words that can be acted on."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

from halftime.base.errors import MissingExtra


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, or MissingExtra, which names `halftime[EXTRA]`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], purpose, install(extra)) from error


def install(extra: str) -> str:
    """The command that installs `halftime[EXTRA]` into the environment that runs now."""
    return f"{_pip()} install 'halftime[{extra}]'"


def _pip() -> str:
    """`pip` where a shell finds this environment's own, else this Python's by its path, relative
    where it is below."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    near = os.path.relpath(sys.executable)
    return f"{sys.executable if near.startswith(os.pardir) else near} -m pip"
