"""An SQLite export of Nsight Systems as columns: kernels, copies, runtime calls, NVTX, OS calls.

`nsys export --type sqlite report.nsys-rep` writes it. Tables that a recording lacks are left out;
times are nanoseconds. Format: the export's schema in Nsight Systems' user guide.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes
from halftime.verbs.trace.foreign import SQLITE
from halftime.verbs.trace.read import ANNOTATION, COPY, FILL, KERNEL, NONE, OPERATOR, Events, Trace

# CUPTI's copyKind -> what Kineto calls the copy.
_COPIES = {1: "HtoD", 2: "DtoH", 3: "HtoA", 8: "DtoD", 10: "PtoP"}
_PUSH_POP, _START_END = 59, 60  # NVTX ranges; other events are marks

Row = tuple[int, int, str, int, int, int, int, int]


def is_export(path: Path | str) -> bool:
    """Whether the file is an SQLite database."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


def read(path: Path | str) -> Trace:
    """Read an export. Raises BadFile if it is damaged or is not one of Nsight Systems."""
    read_bytes(path)  # says in a sentence why it cannot be read
    try:
        with contextlib.closing(
            sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
        ) as database:
            trace = _trace(database)
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


def _trace(database: sqlite3.Connection) -> Trace | None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if "StringIds" not in tables:
        return None
    texts = dict(database.execute("SELECT id, value FROM StringIds"))
    device = list(_device(database, tables, texts))
    runtime = list(_runtime(database, tables, texts))
    host = list(_host(database, tables, texts))
    rows = [*device, *runtime, *host]
    if not rows:
        return None
    origin = min(row[0] for row in rows)
    names: dict[str, int] = {}
    threads: dict[int, int] = {}
    on_device, calls, on_host = (
        _events(table, origin, names, threads) for table in (device, runtime, host)
    )
    cards = _cards(database, tables)
    return Trace(
        names=tuple(names),
        device=on_device,
        runtime=calls,
        host=on_host,
        device_names={number: name for number, name, _ in cards},
        device_memory={number: memory for number, _, memory in cards if memory},
        origin=origin / 1000,
    )


def _device(database: sqlite3.Connection, tables: set[str], texts: dict[int, str]) -> Iterator[Row]:
    for start, end, name, thread, correlation, number in _select(
        database,
        tables,
        "CUPTI_ACTIVITY_KIND_KERNEL",
        "start, end, demangledName, streamId, correlationId, deviceId",
    ):
        yield (
            start,
            end,
            texts.get(name, "kernel"),
            thread,
            correlation,
            number,
            NONE,
            KERNEL,
        )
    for start, end, copy, thread, correlation, number, size in _select(
        database,
        tables,
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        "start, end, copyKind, streamId, correlationId, deviceId, bytes",
    ):
        direction = f"Memcpy {_COPIES.get(copy, 'other')}"
        yield start, end, direction, thread, correlation, number, size, COPY
    for start, end, thread, correlation, number, size in _select(
        database,
        tables,
        "CUPTI_ACTIVITY_KIND_MEMSET",
        "start, end, streamId, correlationId, deviceId, bytes",
    ):
        yield start, end, "Memset", thread, correlation, number, size, FILL
    # Where graphs were traced whole, one row stands for all kernels of a replay.
    for start, end, graph, thread, correlation, number in _select(
        database,
        tables,
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
        "start, end, graphId, streamId, correlationId, deviceId",
    ):
        replay = f"CUDA graph {graph}"
        yield start, end, replay, thread, correlation, number, NONE, KERNEL


def _runtime(
    database: sqlite3.Connection, tables: set[str], texts: dict[int, str]
) -> Iterator[Row]:
    for start, end, name, thread, correlation in _select(
        database,
        tables,
        "CUPTI_ACTIVITY_KIND_RUNTIME",
        "start, end, nameId, globalTid, correlationId",
    ):
        # 'cudaLaunchKernel_v7000' is cudaLaunchKernel, by the version of its interface.
        call = texts.get(name, "call").partition("_v")[0]
        yield start, end, call, thread, correlation, NONE, NONE, OPERATOR


def _host(database: sqlite3.Connection, tables: set[str], texts: dict[int, str]) -> Iterator[Row]:
    for start, end, text, text_id, thread, event in _select(
        database, tables, "NVTX_EVENTS", "start, end, text, textId, globalTid, eventType"
    ):
        label = text if text is not None else texts.get(text_id, "")
        if end is not None and event in (_PUSH_POP, _START_END):
            yield start, end, str(label), thread, NONE, NONE, NONE, ANNOTATION
    for start, end, name, thread in _select(
        database, tables, "OSRT_API", "start, end, nameId, globalTid"
    ):
        yield start, end, texts.get(name, ""), thread, NONE, NONE, NONE, OPERATOR


def _select(
    database: sqlite3.Connection, tables: set[str], table: str, columns: str
) -> Iterator[tuple[int, ...]]:
    if table in tables:
        yield from database.execute(f"SELECT {columns} FROM {table}")


def _cards(database: sqlite3.Connection, tables: set[str]) -> list[tuple[int, str, int]]:
    if "TARGET_INFO_GPU" not in tables:
        return []
    return list(database.execute("SELECT id, name, totalMemory FROM TARGET_INFO_GPU"))


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
