"""Records to files and back. Writing is atomic: a reader sees the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tomli_w

from halftime.base.errors import BadFile, ReaderLeft

if TYPE_CHECKING:
    from halftime.records.base import Record

R = TypeVar("R", bound="Record")
STANDARD_OUTPUT = "-"


def check_writable(path: Path | str) -> None:
    """Raises BadFile, before the work whose result goes there, where `path` cannot be written."""
    target = Path(path).absolute()
    folder = next(parent for parent in target.parents if parent.exists())
    if str(path) != STANDARD_OUTPUT and (
        target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)
    ):
        raise BadFile(f"cannot write {path}. Name a file in a folder that you may write to.")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write beside `path`, then rename; `-` is standard output. Raises BadFile with the reason.

    What is no regular file (a device, a pipe) is written into, and a link is followed. Raises
    ReaderLeft where standard output is a pipe that nobody reads any more.
    """
    if str(path) == STANDARD_OUTPUT:
        _write_to_standard_output(data)
        return
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(target, data)
    except OSError as error:
        advice = " Name a file in a folder that you may write to." if _misplaced(error) else ""
        raise BadFile(f"cannot write {path}: {reason(error)}.{advice}") from error


def reason(error: OSError) -> str:
    """What the system said: 'No space left on device'."""
    return error.strerror or type(error).__name__


def _misplaced(error: OSError) -> bool:
    return not isinstance(error, BlockingIOError) and error.errno != errno.ENOSPC


def _write_to_standard_output(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise ReaderLeft("the reader of standard output left before its end.") from error
    except OSError as error:
        raise BadFile(f"cannot write to standard output: {reason(error)}.") from error


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(
        prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    # There is no call that only reads it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(record: Record) -> bytes:
    """The record as indented JSON, with a line's end."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def write_json(path: Path | str, record: Record) -> None:
    """Write a record as JSON; `-` is standard output."""
    write_bytes(path, to_json(record))


def read_json(path: Path | str, kind: type[R]) -> R:
    """Read a record of a known kind. Raises BadFile, naming the field that is wrong."""
    return decoded(path, read_bytes(path), kind)


def decoded(path: Path | str, data: bytes, kind: type[R]) -> R:
    """The record in JSON that was read from `path`. Raises BadFile."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise BadFile(
            f"{path} is not a {kind.__name__.lower()} file of this halftime: {_sentence(error)}"
        ) from error


def _sentence(error: Exception) -> str:
    """Its words, with one full stop."""
    return f"{str(error).rstrip('.')}."


_EMBEDDED = re.compile(
    rb'<script type="application/json" id="halftime-data">(.*?)</script>', re.DOTALL
)


def read_report(path: Path | str, kind: type[R]) -> R:
    """Read a record from JSON, or from an HTML page that was drawn from it. Raises BadFile."""
    return decoded(path, data_of(path), kind)


def data_of(path: Path | str) -> bytes:
    """The JSON in a file that holds nothing else, or in a page drawn from it. Raises BadFile."""
    data = read_bytes(path)
    if data.lstrip()[:1] != b"<":
        return data
    match = _EMBEDDED.search(data)
    if match is None:
        raise BadFile(
            f"{path} is a page without halftime's data in it. Write it again with --html."
        )
    return match[1]


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a file. Raises BadFile where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_blocks(path: Path | str, size: int) -> Iterator[bytes]:
    """The bytes of a file, `size` of them at a time. Raises BadFile where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            while block := file.read(size):
                yield block
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path | str, error: OSError) -> BadFile:
    if isinstance(error, IsADirectoryError):
        return BadFile(f"{path} is a folder; a file is needed.")
    return BadFile(f"cannot read {path}: {error.strerror}.")


def read_toml(path: Path | str, kind: type[R]) -> R:
    """Read a record from TOML. Raises BadFile, naming the line or the field that is wrong."""
    try:
        return msgspec.convert(tomllib.loads(read_bytes(path).decode()), type=kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadFile(
            f"{path} is not a {kind.__name__.lower()} file: {_sentence(error)}"
        ) from error


def write_toml(path: Path | str, record: Record) -> None:
    """Write a record as TOML; fields that are None are left out, since TOML has no null."""
    write_bytes(path, tomli_w.dumps(_without_none(msgspec.to_builtins(record))).encode())


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
