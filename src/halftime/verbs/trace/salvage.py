"""Events from a file that is not JSON: cut off, or with tokens that no JSON parser accepts.

Profilers write `NaN` and `inf`, quotes that are not escaped, and control characters. The text is
cut where events begin, in one pass; runs of events are decoded together, and only a run that fails
is decoded event by event, so a file takes linear time however many events are bad.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

T = TypeVar("T")

RUN = 256  # events decoded together
LONGEST_EVENT = 1 << 20  # bytes; a longer piece is not an event, and is not mended
NAMED = 3  # names of events that could not be read, for the note
# An event is an object directly in the array, so no key's colon precedes it.
_BEGINS = re.compile(rb'\{\s*"(?:ph|cat|name|pid|tid|ts|dur|args|id|s|bp)"\s*:')
_BAD_NUMBER = re.compile(
    rb"(?<=[:\[,\s])\s*[-+]?(?:NaN|nan|Infinity|infinity|inf|Inf)\b(?=\s*[,}\]])"
)
_CONTROL = re.compile(rb"[\x00-\x1f]")
_NAME = re.compile(
    rb'"name"\s*:\s*"(.*?)"\s*(?=,\s*"(?:ph|cat|pid|tid|ts|dur|args|id|s)"\s*:|\}\s*$)', re.S
)
_ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|["\\]')
_FIELD = rb'"%s"\s*:\s*(?:"([^"]*)"|([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))'
_HEAD = tuple(
    (name, re.compile(_FIELD % name.encode())) for name in ("ph", "cat", "pid", "tid", "ts", "dur")
)
_ARGS = tuple(
    (name, re.compile(_FIELD % name.encode()))
    for name in ("correlation", "stream", "device", "bytes", "External id")
)
# The brace that ends the last event, before the bracket that ends the array.
_ARRAY_ENDS = re.compile(rb'\}\s*\](?=\s*(?:,\s*"|\}|$))')


@dataclass
class Salvaged:
    """Events of a damaged file, and what was wrong with it."""

    events: list[object] = field(default_factory=list)
    mended: int = 0
    skipped: int = 0
    skipped_names: list[str] = field(default_factory=list)
    cut: bool = False
    head: bytes = b""  # what stands before the events

    def notes(self) -> Iterator[str]:
        """What a reader of the numbers must know, in sentences."""
        if self.cut:
            yield "the file is cut off; its whole events were read"
        if self.mended:
            yield f"{self.mended:,} events held tokens that are not JSON and were read without them"
        if self.skipped:
            names = ", ".join(dict.fromkeys(self.skipped_names))
            yield f"{self.skipped:,} events could not be read and are left out, the first: {names}"


def salvage(text: bytes, decode: Callable[[bytes], list[T]]) -> Salvaged:
    """The events of `text`; `decode` decodes a JSON array of them, or raises."""
    array = re.search(rb'"traceEvents"\s*:\s*(?=\[)', text)
    begins = [
        begin
        for match in _BEGINS.finditer(text, array.end() if array else 0)
        if text[(begin := match.start()) - 1] != 58 and text[begin - 2] != 58  # ':'
    ]
    result = Salvaged(head=text[: array.start()] if array else b"")
    if not begins:
        return result
    close = _ARRAY_ENDS.search(text, begins[-1])
    result.cut = close is None
    edges = [*begins, close.start() + 1 if close else len(text)]
    for low in range(0, len(begins), RUN):
        high = min(low + RUN, len(begins))
        piece = text[edges[low] : edges[high]].rstrip(b" \t\r\n,")
        try:
            result.events += decode(b"[" + piece + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            for at in range(low, high):
                event = text[edges[at] : edges[at + 1]].rstrip(b" \t\r\n,")
                if not (result.cut and at == len(begins) - 1 and not _whole(event, decode)):
                    _add(result, event, decode)
    return result


def _whole(event: bytes, decode: Callable[[bytes], list[T]]) -> bool:
    try:
        return bool(decode(b"[" + event + b"]"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _add(result: Salvaged, piece: bytes, decode: Callable[[bytes], list[T]]) -> None:
    """One event: as it is, mended, or by its fields; counted where it cannot be read."""
    for attempt, text in enumerate(_attempts(piece)):
        try:
            events = decode(b"[" + text + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        result.events += events
        result.mended += attempt > 0
        return
    result.skipped += 1
    if len(result.skipped_names) < NAMED:
        match = re.search(rb'"name"\s*:\s*"([^"\n]{1,60})', piece)
        result.skipped_names.append(match[1].decode(errors="replace") if match else "no name")


def _attempts(piece: bytes) -> Iterator[bytes]:
    yield piece
    if len(piece) > LONGEST_EVENT:
        return
    mended = _CONTROL.sub(b" ", _BAD_NUMBER.sub(b"null", piece))
    mended = _NAME.sub(_escaped, mended, count=1)
    yield mended
    by_field = _by_field(mended)
    if by_field is not None:
        yield by_field


def _escaped(match: re.Match[bytes]) -> bytes:
    """The name with its inner quotes and lone backslashes escaped."""
    name = _ESCAPE.sub(lambda m: m[0] if len(m[0]) > 1 else b"\\" + m[0], match[1])
    return b'"name": "' + name + b'"'


def _by_field(piece: bytes) -> bytes | None:
    """An event of the fields alone that are used, whatever else the text holds."""
    event: dict[str, object] = {}
    for name, pattern in _HEAD:
        match = pattern.search(piece)
        if match:
            event[name] = match[1].decode(errors="replace") if match[2] is None else float(match[2])
    title = _NAME.search(piece)
    if title is None or "ts" not in event or "ph" not in event:
        return None
    event["name"] = title[1].decode(errors="replace")
    args = {key: match for key, pattern in _ARGS if (match := pattern.search(piece))}
    event["args"] = {
        key: match[1].decode(errors="replace") if match[2] is None else int(float(match[2]))
        for key, match in args.items()
    }
    event |= {
        key: int(number) for key in ("pid", "tid") if isinstance(number := event.get(key), float)
    }
    return msgspec.json.encode(event)
