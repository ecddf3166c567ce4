"""The events of a Chrome trace, decoded a piece of the text at a time.

The text is cut where an event begins. Where a cut is wrong, within an event, what stands before it
is not a whole list: so pieces that decode are right, and a piece that does not is read on, or is
damaged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from halftime.verbs.trace import vendors
from halftime.verbs.trace.salvage import (
    FAULTS,
    SEPARATORS,
    Damage,
    begins_of,
    last_begin,
    without_bad_tokens,
)
from halftime.verbs.trace.text import BLOCK, TraceText

NONE = -1
# Numbers that some profilers write as text: ROCm 6.2 has "stream": "0x0".
Number = int | float | str | None
_EMPTY = msgspec.Raw()
DAMAGED_BLOCK = 1 << 14  # bytes decoded together in a damaged file: what precedes a fault is twice
_NEAR = 4096  # bytes around a fault in which its event most likely begins and ends
_ARRAY = re.compile(rb'"traceEvents"\s*:\s*\[')
_POSITION = re.compile(r"\(byte (\d+)\)$")
# What follows the events' array within the file's object; some writers end it with a comma.
_AFTER = re.compile(rb'\s*(?:,\s*"|,?\s*\})')
_LAST_COMMA = re.compile(rb",(?=\s*\}\s*$)")


class Args(msgspec.Struct, frozen=True, gc=False):
    """What is used of an event's arguments."""

    correlation: Number = NONE
    device: Number = NONE
    bytes: Number = NONE
    size: Number = NONE  # ROCm's word for bytes, on the runtime's side
    external: Number = msgspec.field(name="External id", default=NONE)
    shapes: msgspec.Raw = msgspec.field(name="Input Dims", default=_EMPTY)
    types: msgspec.Raw = msgspec.field(name="Input type", default=_EMPTY)
    values: msgspec.Raw = msgspec.field(name="Concrete Inputs", default=_EMPTY)
    allocated: int | None = msgspec.field(name="Total Allocated", default=None)
    device_type: int | None = msgspec.field(name="Device Type", default=None)


NO_ARGS = Args()


class Event(msgspec.Struct, gc=False):
    """One event of the format, of any kind."""

    ph: str = ""
    cat: str | None = None
    name: Number = ""
    ts: float = math.nan  # microseconds, as is dur
    dur: float | None = math.nan
    pid: int | float | str | None = None
    tid: int | float | str | None = None
    args: Args | str | int | float | list[msgspec.Raw] | None = NO_ARGS


class _UsualEvent(Event, gc=False):
    """Of a phase and a category that profilers write: words that are known need no new object."""

    ph: Literal["X", "i", "B", "E", "M", "C", "s", "t", "f", ""] = ""
    cat: Literal[vendors.CATEGORIES] | None = None  # type: ignore[valid-type]


class _DeviceProperties(msgspec.Struct):
    id: int = 0
    name: str = ""
    memory: int | None = msgspec.field(name="totalGlobalMem", default=None)


class Head(msgspec.Struct):
    """What a file says beside its events, in the format's own names."""

    distributedInfo: dict[str, object] = {}
    deviceProperties: list[_DeviceProperties] = []


_USUAL_EVENTS = msgspec.json.Decoder(list[_UsualEvent], strict=False)
_EVENTS = msgspec.json.Decoder(list[Event], strict=False)
_HEAD = msgspec.json.Decoder(Head, strict=False)


class Decoding:
    """Events in lists, and what else was met once all of them are decoded."""

    def __init__(self, text: TraceText) -> None:
        self.text = text
        self.damage = Damage()
        self.head = Head()
        self.is_trace = False
        self._usual = True  # all events until now

    def __iter__(self) -> Iterator[Sequence[Event]]:
        if not self._enter():
            # What is JSON, and has no such array, is something else.
            if not _is_json(self.text.held):
                yield from self._mended(self.text.held, last=True)
            return
        size = BLOCK
        while True:
            more = self.text.grow(size)
            text = self.text.held
            stop = last_begin(text[:size] if self.damage.found else text) if more else len(text)
            size = 2 * len(text)
            if more and not stop:
                continue
            try:
                events = self._list(text, stop)
            except FAULTS as error:
                piece = text[:stop]
                end = self._array_end(piece, error, last=not more)
                if end is not None:
                    yield self._list(piece, end)
                    yield from self._leave(end + 1)
                    return
                if more and _goes_on(piece, error):
                    continue
                low, high = _around(piece, error)
                right = self._list_or_none(piece, low) if low else None
                if right is None:
                    low, high = 0, stop
                else:
                    self.is_trace = True
                    yield right
                more = more or high < stop
                yield from self._mended(piece[low:high], last=not more)
                stop = high
            else:
                self.is_trace = self.is_trace or bool(events)
                self.damage.cut = not more
                yield events
            if not more:
                return
            self.text.held = text[stop:]
            size = DAMAGED_BLOCK if self.damage.found else BLOCK

    def _enter(self) -> bool:
        """Take what stands before the first event; False where there is no array of events."""
        size, more = BLOCK, True
        while more:
            more = self.text.grow(size)
            text = self.text.held
            start = text[:64].lstrip() or text.lstrip()
            if start[:1] == b"[":  # the array form of the format
                self.text.held = text[text.index(b"[") + 1 :]
                return True
            array = _array_of(text, last=not more)
            if array is not None:
                self.head = _head(_closed(text[: array.start()]))
                self.text.held = text[array.end() :]
                return True
            size = 2 * len(text)
        return False

    def _leave(self, end: int) -> Iterator[Sequence[Event]]:
        """Take what follows the array of events."""
        self.is_trace = True
        tail = self.text.rest()[end:]
        following = _LAST_COMMA.sub(b"", b'{"":0' + tail)
        if not tail.strip() or _is_json(following):
            head = _head(following)
            self.head = Head(
                head.distributedInfo or self.head.distributedInfo,
                head.deviceProperties or self.head.deviceProperties,
            )
        else:  # more events after all
            yield from self._mended(tail, last=True)

    def _list(self, text: bytes, stop: int) -> Sequence[Event]:
        """The events that stand before `stop`."""
        while stop and text[stop - 1] in SEPARATORS:
            stop -= 1
        array = b"".join((b"[", memoryview(text)[:stop], b"]"))
        if self._usual:
            try:
                return _USUAL_EVENTS.decode(array)
            except msgspec.ValidationError:
                self._usual = False
        return _EVENTS.decode(array)

    def _list_or_none(self, text: bytes, stop: int) -> Sequence[Event] | None:
        """The events that stand before `stop`, if all of it is right."""
        try:
            return self._list(text, stop)
        except FAULTS:
            return None

    def _array_end(self, piece: bytes, error: Exception, *, last: bool) -> int | None:
        """Where the array of events ends within the piece, if that is what stopped the decoder."""
        at = _position(error)
        if at is None or "trailing characters" not in str(error):
            return None
        end = piece.rfind(b"]", 0, at)
        ended = _AFTER.match(piece, end + 1) or (last and not piece[end + 1 :].strip())
        if end < 0 or not ended or self._list_or_none(piece, end) is None:
            return None
        return end

    def _mended(self, piece: bytes, *, last: bool) -> Iterator[Sequence[Event]]:
        events = self.damage.mended(piece, _EVENTS.decode, last=last)
        self.is_trace = self.is_trace or bool(events or self.damage.skipped)
        yield [event for event in events if isinstance(event, Event)]


def _position(error: Exception) -> int | None:
    """Where in a piece the decoder stopped; None where it does not say."""
    match = _POSITION.search(str(error))
    return int(match[1]) - 1 if match else None  # less the bracket before the piece


def _goes_on(piece: bytes, error: Exception) -> bool:
    """Whether all of the piece was right and only its end is missing."""
    if "truncated" in str(error):
        return True
    at = _position(error)
    return at is not None and at >= len(piece.rstrip(SEPARATORS))


def _around(piece: bytes, error: Exception) -> tuple[int, int]:
    """From where to where a piece is damaged: one event where many before it are right, else all,
    so that neither few bad events nor many are slow to read."""
    at = _position(error)
    if at is None:
        return 0, len(piece)
    begins = begins_of(piece[: at + _NEAR], max(0, at - _NEAR))
    low = max((begin for begin in begins if _NEAR < begin <= at), default=0)
    high = min((begin for begin in begins if low and begin > at), default=len(piece))
    return low, high


def _array_of(text: bytes, *, last: bool) -> re.Match[bytes] | None:
    """Where the file's own array of events begins: the first before which no object is open but the
    file's, or in the `last` of a text whose beginning is damaged the first of all."""
    arrays = list(_ARRAY.finditer(text))
    own = next((array for array in arrays if _is_json(_closed(text[: array.start()]))), None)
    return arrays[0] if own is None and arrays and last else own


def _closed(head: bytes) -> bytes:
    return without_bad_tokens(head).rstrip(SEPARATORS) + b"}"


def _head(text: bytes) -> Head:
    """As far as it can be read."""
    try:
        return _HEAD.decode(text)
    except FAULTS:
        return Head()


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except FAULTS:
        return False
    return True
