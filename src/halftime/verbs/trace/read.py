"""A Kineto Chrome trace as columns. Format: libkineto's output_json.cpp and torch.profiler's
export_chrome_trace.

Only what is used is decoded, by msgspec into typed events, and then kept as numpy columns: a
hundred megabytes of JSON become a few. What is damaged is read as far as it goes, and said.
"""

from __future__ import annotations

import gc
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes
from halftime.verbs.trace import vendors
from halftime.verbs.trace.foreign import refuse_foreign
from halftime.verbs.trace.salvage import salvage

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Names = NDArray[np.object_]

NONE = -1
CHUNK = 4096  # of a gzip file; what a damaged one has in the chunk before the damage is lost
LONGEST = 4e15  # microseconds, within which nanoseconds are whole numbers; more is a fault
SOME = 1000  # calls that show whose runtime it is
INSTANT_MEMORY = "[memory]"
# What an event of the host is.
OPERATOR, ANNOTATION, FRAME = range(3)
# What an operation of the device is.
KERNEL, COPY, FILL = range(3)
_TABLES = {
    **dict.fromkeys(vendors.DEVICE_CATEGORIES, "device"),
    **dict.fromkeys(vendors.RUNTIME_CATEGORIES, "runtime"),
    **dict.fromkeys(vendors.HOST_CATEGORIES, "host"),
}
_KINDS = {
    **dict.fromkeys(_TABLES, 0),
    **dict.fromkeys(vendors.ANNOTATION_CATEGORIES, ANNOTATION),
    **dict.fromkeys(vendors.FRAME_CATEGORIES, FRAME),
    "gpu_memcpy": COPY,
    "gpu_memset": FILL,
}
# Operators whose shapes give their FLOPs.
_SHAPED = re.compile(
    r"^aten::(addmm|mm|bmm|baddbmm|linear|_?conv|cudnn_conv|miopen_conv|.*attention)"
)

# Numbers that some profilers write as text: ROCm 6.2 has "stream": "0x0".
Number = int | float | str | None
_EMPTY = msgspec.Raw()


class _Args(msgspec.Struct, frozen=True, gc=False):
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


_NO_ARGS = _Args()


class _Event(msgspec.Struct, gc=False):
    ph: str = ""
    cat: str | None = ""
    name: str = ""
    ts: float = math.nan  # microseconds, as is dur
    dur: float | None = 0.0
    pid: int | float | str | None = None
    tid: int | float | str | None = None
    args: _Args | str | int | float | list[msgspec.Raw] | None = _NO_ARGS


class _DeviceProperties(msgspec.Struct):
    id: int = 0
    name: str = ""
    memory: int | None = msgspec.field(name="totalGlobalMem", default=None)


class _Head(msgspec.Struct):
    # The format's own names.
    distributedInfo: dict[str, object] = {}
    deviceProperties: list[_DeviceProperties] = []


class _File(_Head):
    traceEvents: list[_Event] = msgspec.field(default_factory=list)


_EVENTS = msgspec.json.Decoder(list[_Event], strict=False)
_FILE = msgspec.json.Decoder(_File, strict=False)


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
class Shapes:
    """The recorded inputs of one operator."""

    name: str
    dims: tuple[tuple[int, ...], ...]
    dtype: str
    values: tuple[str, ...] = ()  # of what is not a tensor


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

    def device_name(self, number: int) -> str | None:
        """The name of a device; where only others are listed, of one kind, that kind's."""
        kinds = set(self.device_names.values())
        alike = next(iter(kinds)) if len(kinds) == 1 else None
        return self.device_names.get(number, alike)

    def named(self, events: Events, pattern: re.Pattern[str]) -> Mask:
        """Which events have a name that matches."""
        if not len(events):
            return np.zeros(0, bool)
        matching = np.zeros(len(self.names), bool)
        used = np.flatnonzero(np.bincount(events.name, minlength=len(self.names)))
        matching[used] = [bool(pattern.search(self.names[at])) for at in used.tolist()]
        return matching[events.name]


def distinct(numbers: Ints) -> list[int]:
    """The numbers that occur, in order; numpy's own way loads its masked arrays."""
    return sorted(set(numbers.tolist()))


def read(path: Path | str) -> Trace:
    """Read a trace, plain or gzipped. Raises BadFile if it is not a trace or has no events."""
    data = read_bytes(path)
    notes: list[str] = []
    refuse_foreign(path, data)
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, path, notes)
        refuse_foreign(path, data)
    with _no_collection():
        file, cut = _decoded(data, path, notes)
        del data
        trace = _columns(file, tuple(notes), cut)
    if trace is None:
        raise BadFile(
            f"{path} holds no events. Record it with torch.profiler and export_chrome_trace()."
        )
    if not len(trace.device) + len(trace.runtime) + len(trace.host):
        raise BadFile(
            f"{path} holds no events of the host or a device that torch.profiler records."
        )
    return trace


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of events live at once, and none is in a cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unpacked(data: bytes, path: Path | str, notes: list[str]) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    try:
        for start in range(0, len(data), CHUNK):
            parts.append(unpacker.decompress(data[start : start + CHUNK]))
        parts.append(unpacker.flush())
    except zlib.error as error:
        notes.append(f"the gzip file is damaged ({error}); the part before the damage was read")
    else:
        if not unpacker.eof:
            notes.append("the gzip file ends too early; its beginning was read")
    text = b"".join(parts)
    if not text:
        raise BadFile(
            f"{path} is a gzip file from which nothing can be read. Export the trace again."
        )
    return text


def _decoded(data: bytes, path: Path | str, notes: list[str]) -> tuple[_File, bool]:
    """The file, and whether it is cut off."""
    # Stripping copies a large file, and only the array form needs it.
    text = data if data[:64].lstrip()[:1] == b"{" else data.strip()
    if text[:1] == b"[":  # the array form of the Chrome trace format
        text = b'{"traceEvents":' + text + b"}"
    try:
        file = _FILE.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        salvaged = salvage(text, _EVENTS.decode)
        if salvaged.events or salvaged.skipped:
            notes += salvaged.notes()
            head = _head(salvaged.head)
            events = [event for event in salvaged.events if isinstance(event, _Event)]
            return _File(head.distributedInfo, head.deviceProperties, events), salvaged.cut
    else:
        if file.traceEvents or b'"traceEvents"' in text[:4096]:
            return file, False
    raise BadFile(
        f"{path} is not a Chrome trace. Record it with torch.profiler and export_chrome_trace()."
    )


def _head(text: bytes) -> _Head:
    """What a damaged file says before its events, as far as it can be read."""
    try:
        return msgspec.json.decode(text.rstrip(b" \t\r\n,") + b"}", type=_Head, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Head()


def _columns(file: _File, notes: tuple[str, ...], cut: bool) -> Trace | None:
    tables: dict[str, list[_Event]] = {"device": [], "runtime": [], "host": []}
    append = {category: tables[table].append for category, table in _TABLES.items()}
    memory: list[_Event] = []
    timed = False
    for event in file.traceEvents:
        if event.ph == "X":
            timed = True
            if event.cat in append:
                append[event.cat](event)
        elif event.ph == "i":
            timed = True
            if event.name == INSTANT_MEMORY and _is_device_memory(_args(event)):
                memory.append(event)
    if not timed:
        return None
    names: dict[str, int] = {}
    threads: dict[object, int] = {}
    starts = {table: _floats(events, "ts") for table, events in tables.items()}
    moments = np.concatenate([*starts.values(), [np.inf]])
    origin = float(moments[np.isfinite(moments)].min(initial=np.inf))
    origin = 0.0 if math.isinf(origin) else origin
    device, runtime, host = (
        _table(table, events, starts[table], origin, names, threads)
        for table, events in tables.items()
    )
    work = np.array([not vendors.NOT_WORK.search(name) for name in names], bool)
    rank, world = (file.distributedInfo.get(key) for key in ("rank", "world_size"))
    return Trace(
        names=tuple(names),
        device=device.where(work[device.name]) if len(device) else device,
        runtime=runtime,
        host=host,
        memory_time=_nanoseconds(_floats(memory, "ts"), origin),
        memory_allocated=np.array([_args(event).allocated for event in memory], np.int64),
        rank=rank if isinstance(rank, int) else None,
        world_size=world if isinstance(world, int) else None,
        notes=notes,
        cut=cut,
        device_names={device.id: device.name for device in file.deviceProperties if device.name},
        device_memory={d.id: d.memory for d in file.deviceProperties if d.memory},
        vendor=_vendor({event.cat for event in tables["runtime"]}),
        shapes=_shapes(tables["host"]),
        origin=origin,
    )


def _args(event: _Event) -> _Args:
    return event.args if isinstance(event.args, _Args) else _NO_ARGS


def _vendor(categories: set[str | None]) -> str:
    """torch's name of the device type; ROCm's is 'cuda' too."""
    for prefix in ("xpu", "mtia", "privateuse1"):
        if any(category and category.startswith(prefix) for category in categories):
            return prefix
    return "cuda"


def _shapes(host: Sequence[_Event]) -> dict[int, Shapes]:
    """Recorded inputs of the operators whose FLOPs follow from them, by external id."""
    shapes: dict[int, Shapes] = {}
    for event in [event for event in host if event.cat == "cpu_op"]:  # few beside the frames
        args = event.args
        if not isinstance(args, _Args) or args.shapes is _EMPTY or not _SHAPED.search(event.name):
            continue
        try:
            dims = msgspec.json.decode(args.shapes, type=tuple[tuple[int, ...], ...])
            types = _texts(args.types)
            values = _texts(args.values) if "conv" in event.name else ()
        except msgspec.DecodeError:
            continue  # lists of tensors have deeper shapes
        shapes[_int(args.external)] = Shapes(event.name, dims, types[0] if types else "", values)
    return shapes


def _texts(raw: msgspec.Raw) -> tuple[str, ...]:
    return msgspec.json.decode(raw, type=tuple[str, ...]) if bytes(raw) else ()


def _is_device_memory(args: _Args) -> bool:
    return args.allocated is not None and args.device_type != 0


def _nanoseconds(moments: Floats, origin: float) -> Ints:
    # Microseconds since boot or epoch: subtract before scaling, or a double loses the nanoseconds.
    return np.rint((moments - origin) * 1000).astype(np.int64)


def _int(value: object) -> int:
    """A number however it is written; NONE where it is absent or not a number."""
    try:
        number = int(value, 0) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return NONE
    return number if -(2**63) <= number < 2**63 else NONE


def _floats(events: Sequence[_Event], field: str) -> Floats:
    # numpy reads a null as not a number
    return np.fromiter(map(attrgetter(field), events), np.float64, len(events))


def _ints(events: Sequence[_Event], field: str) -> Ints:
    """One of the arguments as a column: at once where all are numbers, as nearly always."""
    values = map(attrgetter(f"args.{field}"), events)
    try:
        return np.fromiter(values, np.int64, len(events))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return np.array([_int(getattr(_args(event), field)) for event in events], np.int64)


def _numbered(keys: Sequence[object], numbers: dict[Any, int]) -> Ints:
    """Keys as numbers, those that are new counted on."""
    for key in dict.fromkeys(keys):
        numbers.setdefault(key, len(numbers))
    return np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))


def _table(
    table: str,
    events: list[_Event],
    moments: Floats,
    origin: float,
    names: dict[str, int],
    threads: dict[object, int],
) -> Events:
    durations = np.nan_to_num(_floats(events, "dur"))
    timely = (np.abs(moments - origin) < LONGEST) & (np.abs(durations) < LONGEST)
    if not timely.all():
        events = [event for event, keep in zip(events, timely.tolist(), strict=True) if keep]
        moments, durations = moments[timely], durations[timely]
    start = _nanoseconds(moments, origin)
    end = start + np.maximum(0, _nanoseconds(durations, 0.0))
    nothing = np.full(len(events), NONE, np.int64)
    own_names = list(map(attrgetter("name"), events))
    columns = Events(
        start=start,
        end=end,
        name=_numbered(own_names, names),
        thread=nothing
        if table == "device"
        else _numbered(list(map(attrgetter("pid", "tid"), events)), threads),
        correlation=nothing if table == "host" else _ints(events, "correlation"),
        device=_devices(events) if table == "device" else nothing,
        bytes=nothing if table == "host" else _sizes(events, table, own_names),
        kind=np.fromiter(
            map(_KINDS.__getitem__, map(attrgetter("cat"), events)), np.int64, len(events)
        ),
        external=_ints(events, "external") if table == "device" else nothing,
    )
    # by start; of equals the longer, which is outside, first
    return columns.where(np.lexsort((-end, start)))


def _devices(events: Sequence[_Event]) -> Ints:
    devices = _ints(events, "device")
    if (devices != NONE).all():
        return devices
    # On MTIA the process of an operation is its device.
    processes = np.array([_int(event.pid) for event in events], np.int64)
    return np.where(devices == NONE, processes, devices)


def _sizes(events: Sequence[_Event], table: str, names: Sequence[str]) -> Ints:
    """Bytes of copies; ROCm 6.2 has them at the call that queued a copy, under another name."""
    if table == "device":
        return _ints(events, "bytes")
    if any(name.startswith("hip") for name in names[:SOME]):
        return _ints(events, "size")
    return np.full(len(events), NONE, np.int64)
