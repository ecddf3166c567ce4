"""A Kineto Chrome trace as columns. Format: libkineto's output_json.cpp and torch.profiler's
export_chrome_trace.

The file is read piece by piece and only what is used of it is decoded, so a hundred megabytes of
JSON take a few of memory. What is damaged is read as far as it goes, and said.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import BadFile
from halftime.verbs.trace import vendors
from halftime.verbs.trace.columns import Columns, EventTable, Key, integer, name_of, nothing
from halftime.verbs.trace.columns import Shapes as Shapes
from halftime.verbs.trace.events import NONE as NONE
from halftime.verbs.trace.events import Decoding
from halftime.verbs.trace.text import text_of

T = TypeVar("T")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Names = NDArray[np.object_]

LONGEST = 4e15  # microseconds, within which nanoseconds are whole numbers; more is a fault
FEW = 1000  # names, which are matched sooner than those that occur are sought
# What an event of the host is.
OPERATOR, ANNOTATION, FRAME = range(3)
# What an operation of the device is.
KERNEL, COPY, FILL = range(3)
_KINDS = {
    **dict.fromkeys(vendors.ANNOTATION_CATEGORIES, ANNOTATION),
    **dict.fromkeys(vendors.FRAME_CATEGORIES, FRAME),
    **dict.fromkeys(vendors.COPY_CATEGORIES, COPY),
    **dict.fromkeys(vendors.FILL_CATEGORIES, FILL),
}


@dataclass(frozen=True)
class Events:
    """Events as columns of equal length, in order of their start, in nanoseconds from the first."""

    start: Ints
    end: Ints
    name: Ints  # index into Trace.names
    thread: Ints
    correlation: Ints  # NONE where there is none
    device: Ints
    bytes: Ints
    kind: Ints  # OPERATOR, ANNOTATION, FRAME; of a device's operations KERNEL, COPY, FILL
    external: Ints  # links a device's operation to the operator that caused it

    def __len__(self) -> int:
        return len(self.start)

    @property
    def duration(self) -> Ints:
        return self.end - self.start

    def where(self, mask: Mask | Ints) -> Events:
        """Those events alone."""
        return Events(**{column: values[mask] for column, values in vars(self).items()})


@dataclass(frozen=True)
class Trace:
    """One rank's trace."""

    names: tuple[str, ...]
    device: Events  # kernels, copies and fills on the device
    runtime: Events  # calls of the runtime and the driver
    host: Events  # operators, annotations and Python functions
    memory_time: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    memory_allocated: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    rank: int | None = None
    world_size: int | None = None
    notes: tuple[str, ...] = ()
    cut: bool = False  # the file ends before its last event
    device_names: dict[int, str] = field(default_factory=dict)
    device_memory: dict[int, int] = field(default_factory=dict)
    vendor: str = "cuda"  # torch's name of the device type: cuda (ROCm too), xpu, mtia, …
    shapes: dict[int, Shapes] = field(default_factory=dict)  # external id -> operator
    origin: float = 0.0  # microseconds of the first event, on the file's own clock
    _matches: dict[re.Pattern[str], Mask] = field(default_factory=dict, repr=False, compare=False)

    def device_name(self, number: int) -> str | None:
        """The name of a device; where only others are listed, of one kind, that kind's."""
        kinds = set(self.device_names.values())
        alike = next(iter(kinds)) if len(kinds) == 1 else None
        return self.device_names.get(number, alike)

    def named(self, events: Events, pattern: re.Pattern[str]) -> Mask:
        """Which events have a name that matches."""
        if not len(events):
            return np.zeros(0, bool)
        if len(self.names) <= FEW:
            return self._matching(pattern)[events.name]
        matching = np.zeros(len(self.names), bool)
        used = np.flatnonzero(np.bincount(events.name)).tolist()
        matching[used] = [bool(pattern.search(self.names[at])) for at in used]
        return matching[events.name]

    def _matching(self, pattern: re.Pattern[str]) -> Mask:
        """Which names match, looked up once."""
        if pattern not in self._matches:
            matching = [bool(pattern.search(name)) for name in self.names]
            self._matches[pattern] = np.array(matching, bool)
        return self._matches[pattern]


def distinct(numbers: Ints) -> list[int]:
    """The numbers that occur, in order; numpy's own way loads its masked arrays."""
    ordered = np.sort(numbers)
    firsts: Ints = ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]
    return list(map(int, firsts))


def read(path: Path | str) -> Trace:
    """Read a trace, plain or gzipped. Raises BadFile if it is not a trace or has no events."""
    notes: list[str] = []
    decoding, columns = Decoding(text_of(path, notes)), Columns()
    with _no_collection():
        columns.gather(decoding)
    if not decoding.is_trace:
        raise BadFile(
            f"{path} is not a Chrome trace. Record it with torch.profiler and "
            "export_chrome_trace()."
        )
    if not columns.timed:
        raise BadFile(
            f"{path} holds no events. Record it with torch.profiler and export_chrome_trace()."
        )
    notes += decoding.damage.notes()
    origin = _origin(columns.tables)
    notes += _notes_on_time(columns.tables, origin)
    trace = _trace(columns, decoding, origin, tuple(notes))
    if not len(trace.device) + len(trace.runtime) + len(trace.host):
        raise BadFile(
            f"{path} holds no events of the host or a device that torch.profiler records."
        )
    return trace


@contextmanager
def _no_collection() -> Iterator[None]:
    """Events by the thousand are made and dropped, and none is in a cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _trace(columns: Columns, decoding: Decoding, origin: float, notes: tuple[str, ...]) -> Trace:
    numbering = _Numbering(columns.keys)
    device, runtime, host = (_events(table, origin, numbering) for table in columns.tables)
    work = np.array([not vendors.NOT_WORK.search(name) for name in numbering.names], bool)
    head = decoding.head
    rank, world = (integer(head.distributedInfo.get(key)) for key in ("rank", "world_size"))
    memory = np.array(columns.memory, np.float64).reshape(-1, 2)
    return Trace(
        names=tuple(numbering.names),
        device=device if work.all() else device.where(work[device.name]),
        runtime=runtime,
        host=host,
        memory_time=_nanoseconds(memory[:, 0], origin),
        memory_allocated=np.array([allocated for _, allocated in columns.memory], np.int64),
        rank=rank if rank != NONE else None,
        world_size=world if world != NONE else None,
        notes=notes,
        cut=decoding.damage.cut,
        device_names={device.id: device.name for device in head.deviceProperties if device.name},
        device_memory={d.id: d.memory for d in head.deviceProperties if d.memory},
        vendor=_vendor(numbering.categories(columns.runtime.columns()["key"])),
        shapes=columns.shapes,
        origin=origin,
    )


class _Numbering:
    """Names and threads as numbers, in the order in which they are first asked for."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.names: dict[str, int] = {}
        self.threads: dict[object, int] = {}

    def used(self, key: Ints) -> list[int]:
        """The keys that occur."""
        return np.flatnonzero(np.bincount(key, minlength=1)).tolist()

    def categories(self, key: Ints) -> set[str]:
        return {self.keys[at][1] or "" for at in self.used(key)}

    def name(self, key: Ints) -> Ints:
        return self._numbers(key, self.names, name_of)

    def thread(self, key: Ints) -> Ints:
        return self._numbers(key, self.threads, lambda own: own[3:])

    def kind(self, key: Ints) -> Ints:
        return self.by_key(key, lambda own: _KINDS.get(own[1] or "", 0))

    def by_key(self, key: Ints, number: Callable[[Key], int]) -> Ints:
        """A number for each event, from what it shares with others."""
        numbers = np.zeros(len(self.keys), np.int64)
        used = self.used(key)
        numbers[used] = [number(self.keys[at]) for at in used]
        return numbers[key]

    def _numbers(self, key: Ints, numbers: dict[T, int], part: Callable[[Key], T]) -> Ints:
        return self.by_key(key, lambda own: numbers.setdefault(part(own), len(numbers)))


def _origin(tables: Sequence[EventTable]) -> float:
    """The first moment, in microseconds."""
    moments = [table.columns()["ts"] for table in tables]
    origin = min(float(own.min(initial=math.inf, where=np.isfinite(own))) for own in moments)
    return 0.0 if math.isinf(origin) else origin


def _notes_on_time(tables: Sequence[EventTable], origin: float) -> Iterator[str]:
    """What is wrong with the events' times, in sentences."""
    columns = [table.columns() for table in tables]
    untimed = sum(int((~_timely(own, origin)).sum()) for own in columns)
    endless = sum(int(np.isnan(own["dur"]).sum()) for own in columns)
    negative = sum(int((own["dur"] < 0).sum()) for own in columns)
    if untimed:
        yield f"{untimed:,} events have no time that can be, and are left out"
    if endless:
        yield f"{endless:,} events have no duration, and count as moments"
    if negative:
        yield f"{negative:,} events have a negative duration, and count as moments"


def _timely(columns: dict[str, NDArray[Any]], origin: float) -> Mask:
    durations = np.nan_to_num(columns["dur"])
    timely: Mask = (np.abs(columns["ts"] - origin) < LONGEST) & (np.abs(durations) < LONGEST)
    return timely


def _vendor(categories: set[str]) -> str:
    """torch's name of the device type; ROCm's is 'cuda' too."""
    for prefix in ("xpu", "mtia", "privateuse1"):
        if any(category.startswith(prefix) for category in categories):
            return prefix
    return "cuda"


def _nanoseconds(moments: Floats, origin: float) -> Ints:
    # Microseconds since boot or epoch: subtract before scaling, or a double loses the nanoseconds.
    return np.rint((moments - origin) * 1000).astype(np.int64)


def _events(table: EventTable, origin: float, numbering: _Numbering) -> Events:
    columns = table.columns()
    timely = _timely(columns, origin)
    if not timely.all():
        columns = {name: column[timely] for name, column in columns.items()}
    moments, durations = columns["ts"], np.nan_to_num(columns["dur"])
    start = _nanoseconds(moments, origin)
    end = start + np.maximum(0, _nanoseconds(durations, 0.0))
    if not _ordered(start, end):
        order = np.lexsort((-end, start))
        start, end = start[order], end[order]
        columns = {name: column[order] for name, column in columns.items()}
    key, absent = columns["key"], nothing(len(start))
    on_device = "device" in columns
    name = numbering.name(key)
    return Events(
        start=start,
        end=end,
        name=name,
        thread=absent if on_device else numbering.thread(key),
        correlation=columns.get("correlation", absent),
        device=_devices(columns["device"], key, numbering) if on_device else absent,
        # ROCm 6.2 has the bytes of a copy at the call that queued it, under another name.
        bytes=np.maximum(columns.get("bytes", columns.get("size", absent)), NONE),
        kind=numbering.kind(key),
        external=columns.get("external", absent),
    )


def _ordered(start: Ints, end: Ints) -> bool:
    """By start; of equals the longer, which is outside, first."""
    later = np.diff(start)
    return bool(((later > 0) | ((later == 0) & (np.diff(end) <= 0))).all())


def _devices(device: Ints, key: Ints, numbering: _Numbering) -> Ints:
    if (device != NONE).all():
        return device
    # On MTIA the process of an operation is its device.
    return np.where(device == NONE, numbering.by_key(key, lambda own: integer(own[3])), device)
