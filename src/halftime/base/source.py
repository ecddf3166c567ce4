"""Where a line of code is, and what went wrong there, as a person reads it."""

from __future__ import annotations

import traceback
from pathlib import Path

_INSTALLED = ("/site-packages/", "/dist-packages/")
_SOURCES = "/src/"


def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package, and so is not the user's to change."""
    return any(root in _slashed(file) for root in _INSTALLED)


def short(file: str) -> str:
    """From the package's root where it is installed, else from the working directory."""
    slashed = _slashed(file)
    for root in _INSTALLED:
        if root in slashed:
            return slashed.rpartition(root)[2]
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return slashed.rpartition(_SOURCES)[2] if _SOURCES in slashed else path.name


def _slashed(file: str) -> str:
    """As on Linux: Windows separates folders by backslashes."""
    return file.replace("\\", "/")


def in_a_sentence(error: Exception) -> str:
    """An error that is not halftime's: its kind, its first line, and the line that raised it."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of memory ({first_line}). Try a smaller --size or --batch, or --dtype bfloat16."
        )
    return f"{type(error).__name__}: {first_line.rstrip('.') or 'no message'}{_raised_at(error)}."


def _raised_at(error: Exception) -> str:
    """' (FILE:LINE)': the innermost frame outside halftime, torch and click, or ''."""
    home = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((home, "<"))
        and not {"torch", "click"} & {*Path(frame.filename).parts}
    ]
    return f" ({short(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
