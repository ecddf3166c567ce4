"""A Kineto Chrome trace as columns. Format: libkineto's output_json.cpp and torch.profiler's
export_chrome_trace.

Only what is used is decoded, by msgspec into typed events, and then kept as numpy columns: a
hundred megabytes of JSON become a few. Whatever is broken is read as far as it goes, and said.
"""

from __future__ import annotations

import contextlib
import math
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

NONE = -1
CHUNK = 4096  # of a gzip file; what a damaged one has in the chunk before the damage is lost

# Kineto's categories -> what they are to us. ROCm's roctracer writes the same categories with hip
# names.
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel")
RUNTIME_CATEGORIES = ("cuda_runtime", "cuda_driver", "hip_runtime", "runtime", "driver")
HOST_CATEGORIES = ("cpu_op", "user_annotation", "python_function")
INSTANT_MEMORY = "[memory]"
_KINDS = {
    **dict.fromkeys(DEVICE_CATEGORIES, "device"),
    **dict.fromkeys(RUNTIME_CATEGORIES, "runtime"),
    **dict.fromkeys(HOST_CATEGORIES, "host"),
}


class _Args(msgspec.Struct, frozen=True, gc=False):
    correlation: int = NONE
    stream: int = NONE
    device: int = NONE
    bytes: int = NONE
    allocated: int | None = msgspec.field(name="Total Allocated", default=None)
    device_type: int | None = msgspec.field(name="Device Type", default=None)


_NO_ARGS = _Args()


class _Event(msgspec.Struct, gc=False):
    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: float = math.nan  # microseconds, as is dur
    dur: float = 0.0
    pid: int | str | None = None
    tid: int | str | None = None
    args: _Args = _NO_ARGS


class _File(msgspec.Struct):
    # The format's own names.
    traceEvents: list[_Event]
    distributedInfo: dict[str, object] = {}


class _RawFile(msgspec.Struct):
    traceEvents: list[msgspec.Raw]
    distributedInfo: dict[str, object] = {}


@dataclass(frozen=True)
class Events:
    """Events as columns of equal length, in order of their start, in nanoseconds from the first."""

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
        matching = np.fromiter(
            (bool(pattern.search(name)) for name in self.names), bool, len(self.names)
        )
        return matching[events.name] if len(events) else np.zeros(0, bool)


def read(path: Path | str) -> Trace:
    """Read a trace, plain or gzipped. Raises BadFile if it is not a trace or has no events."""
    data = read_bytes(path)
    notes: list[str] = []
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, path, notes)
    file = _decoded(data, path, notes)
    events = [
        event for event in file.traceEvents if event.ph in ("X", "i") and not math.isnan(event.ts)
    ]
    if not events:
        raise BadFile(
            f"{path} holds no events. Record it with torch.profiler and export_chrome_trace()."
        )
    rank = file.distributedInfo.get("rank")
    columns = _columns(events, rank if isinstance(rank, int) else None, tuple(notes))
    if not len(columns.device) + len(columns.runtime) + len(columns.host):
        raise BadFile(
            f"{path} holds no events of the host or a device that torch.profiler records."
        )
    return columns


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


def _decoded(data: bytes, path: Path | str, notes: list[str]) -> _File:
    text = data.strip()
    if text[:1] == b"[":  # the array form of the Chrome trace format
        text = b'{"traceEvents":' + text + b"}"
    try:
        return msgspec.json.decode(text, type=_File, strict=False)
    except msgspec.ValidationError:
        return _salvaged(text, path, notes)
    except (msgspec.DecodeError, UnicodeDecodeError):
        mended = _mended(text)
        if not mended:
            raise BadFile(
                f"{path} is not a Chrome trace. Record it with torch.profiler and "
                "export_chrome_trace()."
            ) from None
        notes.append("the file is cut off; its whole events were read")
        return _salvaged(mended, path, notes)


def _salvaged(text: bytes, path: Path | str, notes: list[str]) -> _File:
    """Event by event, without those that are not understood."""
    try:
        raw = msgspec.json.decode(text, type=_RawFile)
    except msgspec.DecodeError as error:
        raise BadFile(f"{path} is not a Chrome trace: {error}.") from error
    events = []
    for event in raw.traceEvents:
        with contextlib.suppress(msgspec.DecodeError):
            events.append(msgspec.json.decode(event, type=_Event, strict=False))
    if len(events) < len(raw.traceEvents):
        notes.append(
            f"{len(raw.traceEvents) - len(events)} events were not understood and are left out"
        )
    return _File(events, raw.distributedInfo)


def _mended(data: bytes) -> bytes:
    """A cut-off trace closed after its last whole event."""
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


def _columns(events: list[_Event], rank: int | None, notes: tuple[str, ...]) -> Trace:
    origin = min(event.ts for event in events)
    names: dict[str, int] = {}
    threads: dict[object, int] = {}
    kinds: dict[str, list[_Event]] = {}
    for event in events:
        kinds.setdefault(_KINDS.get(event.cat, "") if event.ph == "X" else event.name, []).append(
            event
        )

    device, runtime, host = (
        _kind_columns(kinds.get(kind, []), origin, names, threads)
        for kind in ("device", "runtime", "host")
    )
    memory = [event for event in kinds.get(INSTANT_MEMORY, []) if _is_device_memory(event.args)]
    return Trace(
        names=tuple(names),
        device=device,
        runtime=runtime,
        host=host,
        memory_time=_nanoseconds([event.ts for event in memory], origin),
        memory_allocated=np.array([event.args.allocated for event in memory], np.int64),
        rank=rank,
        notes=notes,
    )


def _is_device_memory(args: _Args) -> bool:
    return args.allocated is not None and args.device_type != 0


def _nanoseconds(moments: list[float], origin: float) -> Ints:
    # Microseconds since boot or epoch: subtract before scaling, or a double loses the nanoseconds.
    return np.rint((np.array(moments, np.float64) - origin) * 1000).astype(np.int64)


def _kind_columns(
    events: list[_Event], origin: float, names: dict[str, int], threads: dict[object, int]
) -> Events:
    start = _nanoseconds([event.ts for event in events], origin)
    end = start + np.maximum(0, _nanoseconds([event.dur for event in events], 0.0))
    args = [event.args for event in events]
    columns = Events(
        start=start,
        end=end,
        name=np.array([names.setdefault(event.name, len(names)) for event in events], np.int64),
        thread=np.array(
            [threads.setdefault((event.pid, event.tid), len(threads)) for event in events], np.int64
        ),
        correlation=np.array([item.correlation for item in args], np.int64),
        device=np.array([item.device for item in args], np.int64),
        stream=np.array([item.stream for item in args], np.int64),
        bytes=np.array([item.bytes for item in args], np.int64),
    )
    # by start; of equals the longer, which is outside, first
    return columns.where(np.lexsort((-end, start)))
