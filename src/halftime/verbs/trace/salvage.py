"""Events from a file that is not JSON: cut off, or with tokens that no JSON parser accepts.

Profilers write `NaN` and `inf`, quotes that are not escaped, and control characters. A piece of the
text that fails is cut where events begin, and the bad events are found by halves, so a file takes
linear time however many events are bad.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

T = TypeVar("T")

FAULTS = (msgspec.DecodeError, UnicodeDecodeError)  # of text that is not JSON, or of other types
SEPARATORS = b" \t\r\n,"  # between events
LONGEST_EVENT = 1 << 20  # bytes; a longer piece is not an event, and is not mended
NAMED = 3  # names of events that could not be read, for the note
_INDENT = 16  # at most, between a key's colon and its object
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
_ARRAY_ENDS = re.compile(rb'\}[\s,]*\](?=\s*(?:,\s*"|,?\s*\}|$))')


@dataclass
class Damage:
    """What was wrong with the events of a file."""

    mended_events: int = 0
    skipped: int = 0
    skipped_names: list[str] = field(default_factory=list)
    cut: bool = False

    @property
    def found(self) -> bool:
        """Whether there was any within the file."""
        return bool(self.mended_events or self.skipped)

    def notes(self) -> Iterator[str]:
        """What a reader of the numbers must know, in sentences."""
        if self.cut:
            yield "the file is cut off; its whole events were read"
        if self.mended_events:
            yield (
                f"{self.mended_events:,} events held tokens that are not JSON and were read "
                "without them"
            )
        if self.skipped:
            names = ", ".join(dict.fromkeys(self.skipped_names))
            yield f"{self.skipped:,} events could not be read and are left out, the first: {names}"

    def mended(self, text: bytes, decode: Callable[[bytes], list[T]], *, last: bool) -> list[T]:
        """The events of a damaged piece, which may be the `last` of its file.

        `decode` decodes a JSON array of them, or raises.
        """
        edges = begins_of(text, 0)
        if not edges:
            return []
        close = _ARRAY_ENDS.search(text, edges[-1]) if last else None
        self.cut = last and close is None
        if not self.cut or _is_whole(text[edges[-1] :], decode):
            edges.append(close.start() + 1 if close else len(text))
        return self._between(text, edges, decode)

    def _between(
        self, text: bytes, edges: list[int], decode: Callable[[bytes], list[T]]
    ) -> list[T]:
        """The events that begin at all edges but the last; those that fail are found by halves."""
        if len(edges) < 2:
            return []
        piece = text[edges[0] : edges[-1]].rstrip(SEPARATORS)
        try:
            return decode(b"[" + piece + b"]")
        except FAULTS:
            if len(edges) == 2:
                return self._one(piece, decode)
        half = len(edges) // 2
        return [
            *self._between(text, edges[: half + 1], decode),
            *self._between(text, edges[half:], decode),
        ]

    def _one(self, piece: bytes, decode: Callable[[bytes], list[T]]) -> list[T]:
        """An event mended, or by its fields; counted where it cannot be read."""
        for attempt in _attempts(piece):
            try:
                events = decode(b"[" + attempt + b"]")
            except FAULTS:
                continue
            self.mended_events += 1
            return events
        self.skipped += 1
        if len(self.skipped_names) < NAMED:
            match = re.search(rb'"name"\s*:\s*"([^"\n]{1,60})', piece)
            self.skipped_names.append(match[1].decode(errors="replace") if match else "no name")
        return []


def begins_of(text: bytes, start: int) -> list[int]:
    """Where events begin, from `start` on."""
    begins = [match.start() for match in _BEGINS.finditer(text, start)]
    return [begin for begin in begins if not _is_value(text, begin)]


def last_begin(text: bytes) -> int:
    """Where the last event begins; 0 where there is none after the first."""
    at = text.rfind(b"{")
    while at > 0 and (_is_value(text, at) or not _BEGINS.match(text, at)):
        at = text.rfind(b"{", 0, at)
    return max(at, 0)


def without_bad_tokens(text: bytes) -> bytes:
    """The text with null for what is no number in JSON, and no control characters."""
    return _CONTROL.sub(b" ", _BAD_NUMBER.sub(b"null", text))


def _is_value(text: bytes, begin: int) -> bool:
    """An event is an object directly in the array, so no key's colon precedes it."""
    return text[max(0, begin - _INDENT) : begin].rstrip()[-1:] == b":"


def _is_whole(event: bytes, decode: Callable[[bytes], list[T]]) -> bool:
    try:
        return bool(decode(b"[" + event.rstrip(SEPARATORS) + b"]"))
    except FAULTS:
        return False


def _attempts(piece: bytes) -> Iterator[bytes]:
    if len(piece) > LONGEST_EVENT:
        return
    mended = _NAME.sub(_escaped, without_bad_tokens(piece), count=1)
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
