"""A Kineto Chrome trace as columns. Format: libkineto's output_json.cpp and torch.profiler's export_chrome_trace.

Only what is used is decoded, by msgspec into typed events, and then kept as numpy columns: a hundred megabytes of JSON
become a few. Whatever is broken is read as far as it goes, and said.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from halftime.errors import BadFile
from halftime.store import read_bytes

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NONE = -1
CHUNK = 4096  # of a gzip file; what a damaged one has in the chunk before the damage is lost

# Kineto's categories -> what they are to us. ROCm's roctracer writes the same categories with hip names.
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel")
RUNTIME_CATEGORIES = ("cuda_runtime", "cuda_driver", "hip_runtime", "runtime", "driver")
HOST_CATEGORIES = ("cpu_op", "user_annotation", "python_function")
INSTANT_MEMORY = "[memory]"


class _Args(msgspec.Struct, gc=False):
    correlation: int | str | None = None
    stream: int | str | None = None
    device: int | str | None = None
    bytes: int | float | str | None = None
    allocated: int | float | None = msgspec.field(name="Total Allocated", default=None)
    device_type: int | None = msgspec.field(name="Device Type", default=None)
    graph: int | str | None = msgspec.field(name="graph id", default=None)


class _Event(msgspec.Struct, gc=False):
    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float | str | None = None
    dur: float | str | None = None
    pid: int | str | None = None
    tid: int | str | None = None
    args: _Args | None = None


class _File(msgspec.Struct):
    # The format's own names.
    traceEvents: list[_Event]
    displayTimeUnit: str = "ms"
    distributedInfo: dict[str, object] = {}


@dataclass(frozen=True)
class Events:
    """Events as columns of equal length, in order of their start; times are nanoseconds from the first event."""

    start: Ints
    end: Ints
    name: Ints  # index into Trace.names
    thread: Ints
    correlation: Ints  # NONE where there is none
    device: Ints
    stream: Ints
    bytes: Ints

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
    runtime: Events  # calls of the CUDA or HIP runtime and driver
    host: Events  # operators, annotations and Python functions
    memory_time: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    memory_allocated: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    rank: int | None = None
    notes: tuple[str, ...] = ()

    def named(self, events: Events, pattern: re.Pattern[str]) -> Mask:
        """Which events have a name that matches."""
        matching = np.fromiter((bool(pattern.search(name)) for name in self.names), bool, len(self.names))
        return matching[events.name] if len(events) else np.zeros(0, bool)


def read(path: Path | str) -> Trace:
    """Read a trace, plain or gzipped. Raises BadFile for what is no trace or holds no event."""
    data = read_bytes(path)
    notes: list[str] = []
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, path, notes)
    file = _decoded(data, path, notes)
    events = [event for event in file.traceEvents if event.ph in ("X", "i") and _number(event.ts) is not None]
    if not events:
        raise BadFile(f"{path} holds no events. Record it with torch.profiler and export_chrome_trace().")
    rank = file.distributedInfo.get("rank")
    columns = _columns(events, rank if isinstance(rank, int) else None, tuple(notes))
    if not len(columns.device) + len(columns.runtime) + len(columns.host):
        raise BadFile(f"{path} holds no events of the host or a device that torch.profiler records.")
    return columns


def _unpacked(data: bytes, path: Path | str, notes: list[str]) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    try:
        for start in range(0, len(data), CHUNK):
            parts.append(unpacker.decompress(data[start : start + CHUNK]))
        parts.append(unpacker.flush())
    except zlib.error as error:
        notes.append(f"the gzip file is damaged ({error}); what stands before the damage was read")
    else:
        if not unpacker.eof:
            notes.append("the gzip file ends too early; what there is was read")
    text = b"".join(parts)
    if not text:
        raise BadFile(f"{path} is a gzip file from which nothing can be read. Export the trace again.")
    return text


def _decoded(data: bytes, path: Path | str, notes: list[str]) -> _File:
    stripped = data.lstrip()
    if stripped[:1] == b"[":  # the array form of the Chrome trace format
        stripped = b'{"traceEvents":' + stripped.rstrip() + b"}"
    for text, note in ((stripped, ""), (_mended(stripped), "the file is cut off; its whole events were read")):
        try:
            file = msgspec.json.decode(text, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = str(error)
            continue
        if note:
            notes.append(note)
        return file
    raise BadFile(f"{path} is no Chrome trace: {problem}. Record it with torch.profiler and export_chrome_trace().")


def _mended(data: bytes) -> bytes:
    """A cut-off trace closed after its last whole event: an event is an object directly inside the array."""
    end = max(data.rfind(b"},\n"), data.rfind(b"},{"), data.rfind(b"}, {"), data.rfind(b"},\r\n"))
    while end > 0:
        candidate = data[: end + 1] + b"]}"
        try:
            msgspec.json.decode(candidate)
        except msgspec.DecodeError:
            # That brace closed an inner object; the one before it may close an event.
            end = data.rfind(b"}", 0, end)
            continue
        return candidate
    return b""


def _number(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _integer(value: object) -> int:
    number = _number(value)
    return int(number) if number is not None and abs(number) < 2**62 else NONE


def _columns(events: list[_Event], rank: int | None, notes: tuple[str, ...]) -> Trace:
    origin = min(_number(event.ts) or 0.0 for event in events)
    names: dict[str, int] = {}
    threads: dict[object, int] = {}

    def columns(categories: tuple[str, ...]) -> Events:
        kept = [event for event in events if event.ph == "X" and event.cat in categories]
        rows = np.array([_row(event, origin, names, threads) for event in kept], np.int64).reshape(-1, 8)
        rows = rows[np.lexsort((-rows[:, 1], rows[:, 0]))]  # by start; of equals the longer, which is outside, first
        return Events(*rows.T)

    device, runtime, host = (columns(each) for each in (DEVICE_CATEGORIES, RUNTIME_CATEGORIES, HOST_CATEGORIES))
    memory = np.array([row for event in events if (row := _memory(event, origin))], np.int64).reshape(-1, 2)
    return Trace(tuple(names), device, runtime, host, memory[:, 0], memory[:, 1], rank, notes)


def _memory(event: _Event, origin: float) -> tuple[int, int] | None:
    """When, and how many bytes the device's allocator then held; None for what is no such event."""
    args = event.args
    if event.name != INSTANT_MEMORY or args is None or args.allocated is None or args.device_type == 0:
        return None
    return _nanoseconds(event.ts, origin), int(args.allocated)


def _nanoseconds(value: object, origin: float) -> int:
    # Microseconds since boot or epoch: subtract before scaling, or a double loses the nanoseconds.
    return round(((_number(value) or 0.0) - origin) * 1000)


def _row(event: _Event, origin: float, names: dict[str, int], threads: dict[object, int]) -> tuple[int, ...]:
    start = _nanoseconds(event.ts, origin)
    duration = max(0, round((_number(event.dur) or 0.0) * 1000))
    args = event.args
    return (
        start,
        start + duration,
        names.setdefault(event.name, len(names)),
        threads.setdefault((event.pid, event.tid), len(threads)),
        _integer(args.correlation) if args else NONE,
        _integer(args.device) if args else NONE,
        _integer(args.stream) if args else NONE,
        _integer(args.bytes) if args else NONE,
    )
