"""Events as columns of numbers: a hundred megabytes of JSON become a few.

Most events differ from others in their times and arguments alone. So what is alike, an event's
kind, name and thread, is looked up as a whole and becomes one number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from halftime.verbs.trace import vendors
from halftime.verbs.trace.events import NO_ARGS, NONE, Args, Event

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BATCH = 1024  # events that become columns together; more no longer fit into a core's cache
INSTANT_MEMORY = "[memory]"
# What becomes of an event: it is left out; left out, but shows that this is a recording; or kept,
# a half with its other half.
_NOTHING, _TIMED, _MEMORY, _HALF, _DEVICE, _RUNTIME, _HOST, _SHAPED = range(8)
_BITS = 3  # of a number that say so
_FATES = 1 << _BITS
_FATE_OF = {
    **dict.fromkeys(vendors.DEVICE_CATEGORIES, _DEVICE),
    **dict.fromkeys(vendors.RUNTIME_CATEGORIES, _RUNTIME),
    **dict.fromkeys(vendors.HOST_CATEGORIES, _HOST),
}
# Operators whose shapes give their FLOPs.
_SHAPED_NAMES = re.compile(
    r"^aten::(addmm|mm|bmm|baddbmm|linear|_?conv|cudnn_conv|miopen_conv|.*attention)"
)
_IDENTITIES = ("correlation", "external")
_DIMS = msgspec.json.Decoder(tuple[tuple[int, ...], ...])
_TEXTS = msgspec.json.Decoder(tuple[str, ...])

# ph, cat, name, pid and tid of events
Key = tuple[
    str, str | None, int | float | str | None, int | float | str | None, int | float | str | None
]


@dataclass(frozen=True)
class Shapes:
    """The recorded inputs of one operator."""

    name: str
    dims: tuple[tuple[int, ...], ...]
    dtype: str
    values: tuple[str, ...] = ()  # of what is not a tensor


class _Keys(dict[Key, int]):
    """Keys of events -> a number of their own, times the fates, and with their fate added."""

    hip = False  # whether calls of ROCm's runtime are among them

    def __missing__(self, key: Key) -> int:
        ph, category, _, _, _ = key
        name = name_of(key)
        fate = _fate(ph, category, name)
        self.hip = self.hip or (fate == _RUNTIME and name.startswith("hip"))
        number = self[key] = len(self) * _FATES + fate
        return number


def name_of(key: Key) -> str:
    """Some writers leave a name out, or give a number."""
    return key[2] if isinstance(key[2], str) else "" if key[2] is None else str(key[2])


def _fate(ph: str, category: str | None, name: str) -> int:
    if ph == "i":
        return _MEMORY if name == INSTANT_MEMORY else _TIMED
    if ph in ("B", "E"):
        return _HALF
    if ph != "X":
        return _NOTHING
    if category in vendors.OPERATOR_CATEGORIES and _SHAPED_NAMES.search(name):
        return _SHAPED
    return _FATE_OF.get(category or "", _TIMED)


class EventTable:
    """Events of one kind, as columns; `key` is an index into the keys of all events."""

    def __init__(self, *arguments: str) -> None:
        self._names = ("key", "ts", "dur", *arguments)
        self._parts: list[list[NDArray[Any]]] = [
            [np.zeros(0, np.float64 if name in ("ts", "dur") else np.int64)] for name in self._names
        ]

    def add(
        self, key: Ints, ts: Floats, dur: Floats, args: Sequence[object], absent: str = ""
    ) -> None:
        """More events, in the order of the file; no argument of the name `absent` is among them."""
        arguments = [
            nothing(len(key)) if name == absent else _ints(args, name) for name in self._names[3:]
        ]
        for parts, column in zip(self._parts, (key, ts, dur, *arguments), strict=True):
            parts.append(column)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Times in microseconds, arguments as integers."""
        for parts in self._parts:
            if len(parts) > 1:
                parts[:] = [np.concatenate(parts)]
        return {name: parts[0] for name, parts in zip(self._names, self._parts, strict=True)}


class Columns:
    """What is kept of a file's events. It grows by lists of them."""

    def __init__(self) -> None:
        self.device = EventTable("correlation", "device", "bytes", "external")
        self.runtime = EventTable("correlation", "size")
        self.host = EventTable()
        self.memory: list[tuple[float, int]] = []  # moments, and the bytes allocated at each
        self.shapes: dict[int, Shapes] = {}  # external id -> operator
        self._numbers = _Keys()
        self._halves: list[Event] = []

    @property
    def tables(self) -> tuple[EventTable, EventTable, EventTable]:
        """Of the device, the runtime and the host."""
        return self.device, self.runtime, self.host

    @property
    def keys(self) -> list[Key]:
        """What is alike in the events, by the index in the tables' columns."""
        return list(self._numbers)

    @property
    def timed(self) -> bool:
        """Whether any event has a time."""
        return any(number % _FATES != _NOTHING for number in self._numbers.values())

    def gather(self, lists: Iterable[Sequence[Event]]) -> None:
        """Take all events of these lists."""
        batch: list[Event] = []
        for events in lists:
            batch += events
            if len(batch) >= BATCH:
                self._add(batch)
                batch = []
        if batch:
            self._add(batch)
        events = list(_joined(self._halves))
        if events:
            self._add(events)

    def _add(self, events: list[Event]) -> None:
        numbers = self._numbers
        number = np.fromiter(
            [numbers[e.ph, e.cat, e.name, e.pid, e.tid] for e in events], np.int64, len(events)
        )
        key, fate = number >> _BITS, number & (_FATES - 1)
        ts = np.fromiter([event.ts for event in events], np.float64, len(events))
        dur = _durations(events)
        masks = (fate == _DEVICE, fate == _RUNTIME, fate >= _HOST)
        for table, of_table in zip(self.tables, masks, strict=True):
            if of_table.any():
                owners = () if table is self.host else _where(events, of_table)
                args = [event.args for event in owners]
                absent = "" if numbers.hip else "size"
                table.add(key[of_table], ts[of_table], dur[of_table], args, absent)
        self._halves += _where(events, fate == _HALF)
        for event in _where(events, fate == _SHAPED):
            self._add_shapes(event)
        for event in _where(events, fate == _MEMORY):
            own = event.args if isinstance(event.args, Args) else NO_ARGS
            if own.allocated is not None and own.device_type != 0:
                self.memory.append((event.ts, own.allocated))

    def _add_shapes(self, event: Event) -> None:
        args = event.args
        if not isinstance(args, Args) or not bytes(args.shapes):
            return
        try:
            dims = _DIMS.decode(args.shapes)
            types = _texts(args.types)
            values = _texts(args.values) if "conv" in str(event.name) else ()
        except msgspec.DecodeError:
            return  # lists of tensors have deeper shapes
        self.shapes[integer(args.external)] = Shapes(
            str(event.name), dims, types[0] if types else "", values
        )


def _joined(halves: Sequence[Event]) -> Iterator[Event]:
    """Events whose beginning and end are apart (ph B and E), as whole ones; they nest by thread.

    An end that has a name is that event's, where one of that name has begun: others may have been
    cut off, or begin at the same moment.
    """
    begun: dict[tuple[object, object], list[Event]] = defaultdict(list)
    for half in sorted(halves, key=lambda event: event.ts):
        own = begun[half.pid, half.tid]
        if half.ph == "B":
            own.append(half)
        elif own:
            last = len(own) - 1
            alike = (at for at in range(last, -1, -1) if half.name and own[at].name == half.name)
            begin = own.pop(next(alike, last))
            yield msgspec.structs.replace(begin, ph="X", dur=half.ts - begin.ts)


def _durations(events: list[Event]) -> Floats:
    durations = [event.dur for event in events]
    try:
        return np.fromiter(durations, np.float64, len(durations))
    except TypeError:
        return np.array(durations, np.float64)  # a null is not a number


def _where(events: list[Event], mask: NDArray[np.bool_]) -> Iterable[Event]:
    return compress(events, mask.tolist()) if mask.any() else ()


def _texts(raw: msgspec.Raw) -> tuple[str, ...]:
    return _TEXTS.decode(raw) if bytes(raw) else ()


def nothing(count: int) -> Ints:
    """A column, not to be written to, of an argument that no event has."""
    return np.broadcast_to(np.int64(NONE), count)


def integer(value: object) -> int:
    """A number however it is written; NONE where it is absent or not a number."""
    try:
        number = int(value, 0) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return NONE
    return number if -(2**63) <= number < 2**63 else NONE


def _identity(value: object) -> int:
    """As `integer`; of an unsigned number of 64 bits the same bits."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = int(value, 0)
    if isinstance(value, int) and 2**63 <= value < 2**64:
        return value - 2**64
    return integer(value)


def _ints(args: Sequence[object], field: str) -> Ints:
    try:
        return np.fromiter(map(attrgetter(field), args), np.int64, len(args))
    except (TypeError, ValueError, AttributeError, OverflowError):
        own = [arg if isinstance(arg, Args) else NO_ARGS for arg in args]
        number = _identity if field in _IDENTITIES else integer
        return np.array([number(getattr(arg, field)) for arg in own], np.int64)
