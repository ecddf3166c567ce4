"""Where a line of code is, as a person reads it."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = ("/site-packages/", "/dist-packages/")
_SOURCES = "/src/"


def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package, and so is not the user's to change."""
    return any(root in file for root in _INSTALLED)


def short(file: str) -> str:
    """From the package's root where it is installed, else from the working directory, as annotations need it."""
    for root in _INSTALLED:
        if root in file:
            return file.rpartition(root)[2]
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return file.rpartition(_SOURCES)[2] if _SOURCES in file else path.name
