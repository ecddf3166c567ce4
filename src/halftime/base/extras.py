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
        return import_quietly(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], purpose, install(extra)) from error


# package -> the package by which it reports its use to its maker; without it, it goes on silently
_TELEMETRY = {"openvino": "openvino_telemetry"}


def import_quietly(module: str) -> ModuleType:
    """The module, kept from reporting its use.

    OpenVINO starts a process for each event of an import or a conversion, and posts it from there.
    Its telemetry cannot be imported after this, unless something else in the process did already.
    """
    telemetry = _TELEMETRY.get(module.partition(".")[0])
    if telemetry is not None:
        sys.modules.setdefault(telemetry, None)  # type: ignore[arg-type]  # import's own 'never'
    return importlib.import_module(module)


def install(extra: str) -> str:
    """The command that installs `halftime[EXTRA]` into the environment that runs now."""
    return install_package(f"'halftime[{extra}]'")


def install_package(requirement: str) -> str:
    """The command that installs a package into the environment that runs now."""
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == Path(sys.executable).parent:
        command = "pip"  # a shell finds this environment's own
    else:
        near = os.path.relpath(sys.executable)
        python = sys.executable if near.startswith(os.pardir) else near
        command = f"{python} -m pip"
    return f"{command} install {requirement}"
