"""GitHub's workflow commands: lines of a log that become annotations."""

from __future__ import annotations


def annotation(level: str, title: str, text: str, file: str = "", line: int = 0) -> str:
    """`level` is 'error', 'warning' or 'notice'; a command ends with its line."""
    where = f"file={_property(file)},line={line}," if file else ""
    return f"::{level} {where}title={_property(title)}::{_message(text)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
