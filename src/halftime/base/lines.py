"""Files with a record a line, which grow: histories, and lists that people keep in a repository."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import STANDARD_OUTPUT, read_bytes, reason

if TYPE_CHECKING:
    from halftime.records.base import Record

R = TypeVar("R", bound="Record")


class Lines(NamedTuple, Generic[R]):
    """The records of a file, and the numbers of the lines that hold none."""

    records: tuple[R, ...]
    broken: tuple[int, ...]


def read_lines(path: Path | str, kind: type[R]) -> Lines[R]:
    """Every line that is a record of this kind; empty ones are nothing. Raises BadFile where the
    file cannot be read."""
    decoder = msgspec.json.Decoder(kind)
    records, broken = [], []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            broken.append(number)
    return Lines(tuple(records), tuple(broken))


def append_lines(path: Path | str, records: tuple[Record, ...]) -> None:
    """Add a line for each record in one write, so that two commands at once do not mix. A line that
    was cut off before stays a line of its own. Raises BadFile, and leaves no part of a line."""
    text = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("ab", buffering=0) as file:
            end = file.tell()
            text = (b"\n" if _is_cut(path) else b"") + text
            if file.write(text) < len(text):  # a full disk takes a part of it
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise BadFile(f"cannot write {path}: {reason(error)}.") from error


def _is_cut(path: Path | str) -> bool:
    """Whether the last line has no end."""
    with Path(path).open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def check_grows(path: Path | str, option: str) -> None:
    """Raises BadFile, before the work, where lines cannot be added to `path`."""
    target = Path(path).absolute()
    folder = next(parent for parent in target.parents if parent.exists())
    writable = target if target.exists() else folder
    usable = folder.is_dir() and not target.is_dir() and os.access(writable, os.W_OK)
    if str(path) == STANDARD_OUTPUT or not usable:
        raise BadFile(
            f"{option} {path}: lines cannot be added to it. Name a file in a folder that you may "
            "write to."
        )
