"""Optional packages: imported on use; a missing one is named with the command that installs it."""

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
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == Path(sys.executable).parent:
        command = "pip"  # a shell finds this environment's own
    else:
        near = os.path.relpath(sys.executable)
        python = sys.executable if near.startswith(os.pardir) else near
        command = f"{python} -m pip"
    return f"{command} install 'halftime[{extra}]'"
