"""An SQLite export of Nsight Systems as columns: kernels, copies, runtime calls, NVTX, OS calls.

`nsys export --type sqlite report.nsys-rep` writes it. Tables that a recording lacks are left out;
times are nanoseconds. Format: the export's schema in Nsight Systems' user guide.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from halftime.base.errors import BadFile
from halftime.base.store import read_blocks
from halftime.verbs.trace.foreign import SQLITE
from halftime.verbs.trace.read import ANNOTATION, COPY, FILL, KERNEL, NONE, OPERATOR, Events, Trace

# CUPTI's copyKind -> what Kineto calls the copy; those of unified memory are Nsight's own.
_COPIES = {
    1: "HtoD",
    2: "DtoH",
    3: "HtoA",
    4: "AtoH",
    8: "DtoD",
    9: "HtoH",
    10: "PtoP",
    11: "HtoD",
    12: "DtoH",
    13: "DtoD",
}
# NVTX ranges, pushed and popped or started and ended, with text or without; other events are marks.
_RANGES = (59, 60, 70, 71, None)
_VERSION = re.compile(r"_v\d{4,}$")  # 'cudaLaunchKernel_v7000' is cudaLaunchKernel
_CALL_TABLES = ("CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_DRIVER")
_PROCESS_BITS, _CORRELATION_BITS = 24, 32

Row = tuple[int, int, str, int, int, int, int, int]


class _Export:
    """The tables of a database. Versions of Nsight have other columns, so what one lacks is None.

    Processes count their calls and their devices from nought, each for itself.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.text_factory = partial(str, encoding="utf-8", errors="replace")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
        self._columns = {
            table: {row[1] for row in database.execute(f'PRAGMA table_info("{table}")')}
            for table in tables
        }
        self.is_nsight = "StringIds" in self._columns
        self.texts = {at: text for at, text in self.rows("StringIds", "id, value") if text}
        self._devices: dict[tuple[int, int], int] = {
            (process, number): card
            for process, number, card in self.rows("TARGET_INFO_CUDA_DEVICE", "pid, cudaId, gpuId")
        }
        self._processes: dict[int, int] = {}
        activities = [f"CUPTI_ACTIVITY_KIND_{kind}" for kind, _, _ in _OPERATIONS]
        self._by_process = all(
            "globalPid" in self._columns[table] for table in activities if table in self._columns
        )

    def rows(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        """Those columns of all rows; of what happened, only what has ended."""
        if table not in self._columns:
            return
        own = self._columns[table]
        names = columns.split(", ")
        times = [name for name in ("start", "end") if name in names]
        if not own.issuperset(times):
            return
        chosen = ", ".join(f'"{name}"' if name in own else "NULL" for name in names)
        ended = " AND ".join(f'"{name}" IS NOT NULL' for name in times)
        yield from self._database.execute(
            f'SELECT {chosen} FROM "{table}"{f" WHERE {ended}" if ended else ""}'
        )

    def text(self, *numbers: int | None) -> str:
        """The first of these that is a text."""
        return next((self.texts[n] for n in numbers if n in self.texts), "")

    def correlation(self, number: int | None, thread: int | None) -> int:
        """A call's number with its process, which is part of the global number of a thread."""
        if number is None:
            return NONE
        process = (thread or 0) >> _PROCESS_BITS if self._by_process else 0
        own = self._processes.setdefault(process, len(self._processes))
        return number + (own << _CORRELATION_BITS)

    def device(self, number: int | None, process: int | None) -> int:
        """The card that a process counts as that device: CUDA_VISIBLE_DEVICES renumbers them."""
        if number is None:
            return NONE
        own = ((process or 0) >> _PROCESS_BITS) & ((1 << _PROCESS_BITS) - 1)
        return self._devices.get((own, number), number)


def is_export(path: Path | str) -> bool:
    """Whether the file is an SQLite database."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


def read(path: Path | str) -> Trace:
    """Read an export. Raises BadFile if it is damaged or is not one of Nsight Systems."""
    next(read_blocks(path, len(SQLITE)), b"")  # says in a sentence why it cannot be read
    try:
        with contextlib.closing(
            sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
        ) as database:
            export = _Export(database)
            trace = _trace(export) if export.is_nsight else None
    except sqlite3.Error as error:
        raise BadFile(
            f"{path} is a damaged SQLite file ({error}). Export it again with `nsys export "
            "--type sqlite`."
        ) from error
    if trace is None:
        raise BadFile(
            f"{path} is an SQLite file without Nsight Systems' tables. Write it with `nsys export "
            "--type sqlite report.nsys-rep`."
        )
    return trace


def _trace(export: _Export) -> Trace | None:
    device, runtime, host = list(_device(export)), list(_runtime(export)), list(_host(export))
    rows = [*device, *runtime, *host]
    if not rows:
        return None
    origin = min(row[0] for row in rows)
    names: dict[str, int] = {}
    threads: dict[int, int] = {}
    on_device, calls, on_host = (
        _events(table, origin, names, threads) for table in (device, runtime, host)
    )
    cards = list(export.rows("TARGET_INFO_GPU", "id, name, totalMemory"))
    return Trace(
        names=tuple(names),
        device=on_device,
        runtime=calls,
        host=on_host,
        device_names={number: name for number, name, _ in cards if name},
        device_memory={number: memory for number, _, memory in cards if memory},
        origin=origin / 1000,
    )


def _device(export: _Export) -> Iterator[Row]:
    for kind, own, describe in _OPERATIONS:
        columns = f"start, end, streamId, correlationId, deviceId, globalPid, {own}"
        for start, end, stream, number, device, process, *facts in export.rows(
            f"CUPTI_ACTIVITY_KIND_{kind}", columns
        ):
            name, size, activity = describe(export, *facts)
            call, card = export.correlation(number, process), export.device(device, process)
            yield (
                start,
                end,
                name,
                stream or 0,
                call,
                card,
                NONE if size is None else size,
                activity,
            )


Operation = tuple[str, int | None, int]  # name, bytes, kind


def _kernel(export: _Export, demangled: int | None, short: int | None) -> Operation:
    return export.text(demangled, short) or "kernel", None, KERNEL


def _copy(_: _Export, kind: int | None, size: int | None) -> Operation:
    return f"Memcpy {_COPIES.get(kind or 0, 'other')}", size, COPY


def _fill(_: _Export, size: int | None) -> Operation:
    return "Memset", size, FILL


def _replay(_: _Export, graph: int | None) -> Operation:
    """Where graphs were traced whole, one row stands for all kernels of a replay."""
    return f"CUDA graph {graph}", None, KERNEL


# Kinds of activity, their own columns, and what these say.
_OPERATIONS: tuple[tuple[str, str, Callable[..., Operation]], ...] = (
    ("KERNEL", "demangledName, shortName", _kernel),
    ("MEMCPY", "copyKind, bytes", _copy),
    ("MEMSET", "bytes", _fill),
    ("GRAPH_TRACE", "graphId", _replay),
)


def _runtime(export: _Export) -> Iterator[Row]:
    for table in _CALL_TABLES:
        for start, end, name, thread, number in export.rows(
            table, "start, end, nameId, globalTid, correlationId"
        ):
            call = _VERSION.sub("", export.text(name)) or "call"
            correlation = export.correlation(number, thread)
            yield start, end, call, thread or 0, correlation, NONE, NONE, OPERATOR


def _host(export: _Export) -> Iterator[Row]:
    for start, end, text, text_id, thread, event in export.rows(
        "NVTX_EVENTS", "start, end, text, textId, globalTid, eventType"
    ):
        label = text if text is not None else export.text(text_id)
        if event in _RANGES:
            yield start, end, str(label), thread or 0, NONE, NONE, NONE, ANNOTATION
    for start, end, name, thread in export.rows("OSRT_API", "start, end, nameId, globalTid"):
        yield start, end, export.text(name), thread or 0, NONE, NONE, NONE, OPERATOR


def _events(rows: list[Row], origin: int, names: dict[str, int], threads: dict[int, int]) -> Events:
    numbers = np.array(
        [
            (
                start - origin,
                max(start, end) - origin,
                names.setdefault(name, len(names)),
                threads.setdefault(thread, len(threads)),
                correlation,
                device,
                size,
                kind,
                NONE,
            )
            for start, end, name, thread, correlation, device, size, kind in rows
        ],
        np.int64,
    ).reshape(len(rows), 9)
    columns = Events(*(np.ascontiguousarray(column) for column in numbers.T))
    return columns.where(np.lexsort((-columns.end, columns.start)))
