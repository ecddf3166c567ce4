"""Logs of requests that both models answered: JSON lines, with pictures beside them or inside."""

from __future__ import annotations

import base64
import binascii
import gzip
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from halftime.base.errors import BadFile
from halftime.base.lines import append_lines
from halftime.base.store import STANDARD_OUTPUT, read_bytes, write_bytes
from halftime.records.captions import Logged
from halftime.verbs.captions import features
from halftime.verbs.captions.near import grouped, sketch

_GZIPPED = b"\x1f\x8b"
_FIRST = b'{"id":'  # what every line of `add_line` starts with


@dataclass(frozen=True)
class Log:
    """Requests, their features (requests x features), and each one's group of near duplicates."""

    rows: tuple[Logged, ...]
    values: features.Array
    groups: tuple[int, ...]
    folder: Path = Path()  # of pictures that are named by path
    left_out: tuple[str, ...] = ()  # why, a sentence each: these always go to the large model


def read_log(path: str | Path) -> Log:
    """Read a log and look at its pictures. Raises BadFile, naming the line that is wrong."""
    rows = _rows(Path(path))
    usable: list[Logged] = []
    values: list[list[float]] = []
    marks: list[bytes | str] = []
    left_out: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            value, mark = _features_and_mark(row, number, Path(path).parent)
        except features.NotSeen as error:
            left_out.append(f"line {number}: {error}")
            continue
        if values and len(value) != len(values[0]):
            raise BadFile(
                f"{path}, line {number}: {len(value)} features; the lines before have "
                f"{len(values[0])}."
            )
        usable.append(row)
        values.append(value)
        marks.append(mark)
    if not usable:
        raise BadFile(
            f"{path} has no request that can be used. {left_out[0] if left_out else 'It is empty.'}"
        )
    return Log(
        tuple(usable), np.asarray(values), tuple(grouped(marks)), Path(path).parent, tuple(left_out)
    )


def _rows(path: Path) -> list[Logged]:
    data = read_bytes(path)
    try:
        data = gzip.decompress(data) if data[:2] == _GZIPPED else data
    except (OSError, EOFError) as error:
        raise BadFile(f"{path} is a broken gzip file: {error}.") from error
    return _decoded(data, path)


def _decoded(data: bytes, path: str | Path) -> list[Logged]:
    decoder, rows = msgspec.json.Decoder(Logged), []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                rows.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise BadFile(
                    f"{path}, line {number}: {error}. A line's fields are in docs/captions.md."
                ) from error
    return rows


def logged_lines(path: str | Path) -> list[Logged]:
    """What a log that is being collected already holds.

    Half a last line, of a run that was killed, is cut off. Raises BadFile where the file is not
    such a log, and leaves it as it is.
    """
    if not Path(path).is_file():
        return []
    try:
        data = read_bytes(path)
        if data[:2] == _GZIPPED:
            raise BadFile(f"{path} is gzipped, and lines cannot be added to it.")
        lines = _without_half_a_line(data)
        rows = _decoded(lines, path)
    except BadFile as error:
        raise BadFile(
            f"cannot go on with the log that is there: {error} Name another --out."
        ) from error
    if lines != data:
        write_bytes(path, lines)
    return rows


def _without_half_a_line(data: bytes) -> bytes:
    """Whole lines, each with its end.

    Only the start of a line that `add_line` writes is taken for half a line.
    """
    lines, end, last = data.rpartition(b"\n")
    try:
        _decoded(last, "")
    except BadFile:
        cut = last.startswith(_FIRST) or _FIRST.startswith(last)
        return lines + end if cut else data
    return data + b"\n" if last else data


def add_line(path: str | Path, row: Logged) -> None:
    """Add a line at a log's end, at once; `-` is standard output. Raises BadFile."""
    if str(path) == STANDARD_OUTPUT:
        write_bytes(path, msgspec.json.encode(row) + b"\n")
    else:
        append_lines(path, (row,))


def _features_and_mark(row: Logged, number: int, folder: Path) -> tuple[list[float], bytes | str]:
    """A request's features and the mark of its family: a sketch, or the log's own word."""
    if row.features is not None:
        return list(row.features), row.group if row.group is not None else f"line {number}"
    if row.image is None:
        raise features.NotSeen("the request has neither image nor features.")
    picture = picture_of(row.image, folder)
    mark = row.group if row.group is not None else sketch(picture)
    return [*features.of_picture(picture), *features.of_prompt(row.prompt)], mark


def picture_of(image: str, folder: Path) -> bytes:
    """The bytes of a picture named by path, data URL or base64. Raises NotSeen."""
    if not image.startswith("data:") and len(image) < 1024 and (folder / image).is_file():
        return (folder / image).read_bytes()
    data = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise features.NotSeen(
            f"the picture is neither a file here nor base64: {image[:40]!r}."
        ) from error
