"""A traced Session as a Report: the ledger, then what only a trace shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from halftime.base import units
from halftime.records import HostGap, Record, Session
from halftime.report.flame import flame
from halftime.report.model import (
    Block,
    Cell,
    Column,
    Html,
    Report,
    Section,
    Table,
    Text,
    rows_of,
)
from halftime.report.session import report_of as session_report

NAME_LENGTH = 90  # of a kernel's name in a table
LINE_LENGTH = 40  # of a line of Python
WORTH_A_LINE = 0.005  # of the call
CONSOLE_LINES = 6


def report_of(session: Session) -> Report:
    """The session's report with the device's side after the ledger; everything is of one call."""
    base = session_report(session)
    session = per_call(session)
    sections = [
        base.sections[0],
        *_device(session),
        *_lines(session),
        *_syncs(session),
        *_movement(session),
        *_several(session),
        *_top_kernels(session),
        *_rates(session),
        *base.sections[1:],
    ]
    return dataclasses.replace(base, sections=tuple(sections))


def per_call(session: Session) -> Session:
    """What the device did, which the record holds for all traced calls together, of one on
    average."""
    calls = len(session.runs)
    if session.kind != "trace" or calls < 2:
        return session
    return msgspec.structs.replace(
        session,
        device=session.device and _shared(session.device, calls),
        on_device=tuple(_shared(stage, calls) for stage in session.on_device),
        syncs=tuple(_shared(wait, calls) for wait in session.syncs),
        devices=tuple(_shared(device, calls) for device in session.devices),
        operations=tuple(_shared(operation, calls) for operation in session.operations),
    )


# Fields that are not of all calls together: names, medians, rates.
_NOT_SHARED = {
    "device",
    "kernels_per_step",
    "launch_latency_seconds",
    "queue_depth",
    "flops_per_second",
}
S = TypeVar("S", bound=Record)


def _shared(record: S, calls: int) -> S:
    """A record with its sums divided by the number of calls."""
    changes = {
        name: _divided(getattr(record, name), calls)
        for name in record.__struct_fields__
        if name not in _NOT_SHARED
    }
    return msgspec.structs.replace(record, **changes)


def _divided(value: object, calls: int) -> object:
    if isinstance(value, int | float):
        return value / calls
    if isinstance(value, dict):
        return {key: _divided(part, calls) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_shared(part, calls) if isinstance(part, Record) else part for part in value)
    return value


def _device(session: Session) -> Iterator[Section]:
    if session.device is None:
        return
    device = session.device
    causes = ", ".join(
        f"{cause} {units.seconds(value)}" for cause, value in device.idle_by_cause.items() if value
    )
    copies = "".join(
        f"; {name} {units.size(volume)}" for name, volume in device.memcpy_bytes.items()
    )
    summary = (
        f"Busy {units.seconds(device.busy_seconds)}, idle {units.seconds(device.idle_seconds)}"
        f"{f' ({causes})' if causes else ''}; {units.count(device.kernels)} operations{copies}."
    )
    calls = len(session.runs)
    title = f"On the device, a call of the {calls}" if calls > 1 else "On the device"
    yield Section(title, (Text(summary), _stages(session)))


def _top_kernels(session: Session) -> Iterator[Section]:
    rows: list[list[Cell]] = [
        [stage.stage, kernel.name[:NAME_LENGTH], kernel.count, kernel.seconds]
        for stage in session.on_device
        for kernel in stage.top_kernels
    ]
    columns = (
        Column("stage"),
        Column("kernel"),
        Column("count", "count"),
        Column("time", "seconds"),
    )
    if rows:
        yield Section("Top kernels by stage", (Table(columns, rows_of(*rows)),), console=False)


def _stages(session: Session) -> Table:
    columns = (
        Column("stage"),
        Column("bound"),
        Column("busy", "seconds"),
        Column("idle: host", "seconds"),
        Column("idle: sync", "seconds"),
        Column("idle: allocator", "seconds", wide=True),
        Column("idle: other", "seconds", wide=True),
        Column("operations", "count", wide=True),
        Column("a step", "count"),
        Column("launch latency", "seconds", wide=True),
        Column("queue", "count", wide=True),
        Column("graph replays", "count", wide=True),
        Column("memory growth", "bytes", wide=True),
    )
    rows = [
        [
            stage.stage,
            stage.bound,
            stage.busy_seconds,
            stage.idle_by_cause.get("host"),
            stage.idle_by_cause.get("sync"),
            stage.idle_by_cause.get("allocator"),
            stage.idle_by_cause.get("other"),
            stage.kernels,
            stage.kernels_per_step,
            stage.launch_latency_seconds,
            stage.queue_depth,
            stage.graph_replays,
            stage.memory_growth_bytes,
        ]
        for stage in session.on_device
    ]
    return Table(columns, rows_of(*rows))


def _lines(session: Session) -> Iterator[Section]:
    if not session.host_gaps:
        return
    title = (
        "Lines of Python that the device waited for"
        if session.device
        else "Lines of Python in the loop's glue"
    )
    longest = [gap for gap in session.host_gaps if gap.share >= WORTH_A_LINE][:CONSOLE_LINES]
    if longest:
        yield Section(title, (_line_table(session, longest),))
    blocks: list[Block] = [_line_table(session, session.host_gaps)]
    chart = flame(session)
    if chart:
        blocks.insert(0, Html(chart, caption="Callers above, the line that costs below."))
    yield Section("Idle time by stack", tuple(blocks), console=False)


def _line_table(session: Session, gaps: Sequence[HostGap]) -> Table:
    columns = (
        Column("line"),
        Column("stage"),
        Column("device idle" if session.device else "time", "seconds"),
        Column("share", "share"),
        Column("without it, at most", "ratio"),
        Column("called by", wide=True),
    )
    rows: list[list[Cell]] = [
        [
            _line(gap.frame),
            gap.stage,
            gap.seconds,
            gap.share,
            gap.ceiling,
            _line(gap.where[0]) if gap.where else None,
        ]
        for gap in gaps
    ]
    return Table(columns, rows_of(*rows))


def _line(frame: str) -> str:
    """'cache_utils.py(154): cache_context': without folders, and of a long name its end."""
    line, separator, function = frame.rpartition(": ")
    short = f"{line.rpartition('/')[2]}{separator}{function}"
    return short if len(short) <= LINE_LENGTH else f"…{short[1 - LINE_LENGTH :]}"


def _syncs(session: Session) -> Iterator[Section]:
    if not session.syncs:
        return
    columns = (
        Column("wait"),
        Column("stage"),
        Column("count", "count"),
        Column("host waited", "seconds"),
        Column("cost, at most", "seconds"),
        Column("where", wide=True),
    )
    rows: list[list[Cell]] = [
        [
            wait.name,
            wait.stage,
            wait.count,
            wait.host_seconds,
            wait.wall_seconds,
            " < ".join(map(_line, wait.where[:2])),
        ]
        for wait in session.syncs
    ]
    yield Section("Where the host waited for the device", (Table(columns, rows_of(*rows)),))


def _movement(session: Session) -> Iterator[Section]:
    if session.transfers:
        columns = (
            Column("stage"),
            Column("direction"),
            Column("copies", "count"),
            Column("bytes", "bytes"),
            Column("time", "seconds"),
            Column("not hidden", "seconds"),
        )
        rows: list[list[Cell]] = [
            [row.stage, row.direction, row.count, row.bytes, row.seconds, row.exposed_seconds]
            for row in session.transfers
        ]
        yield Section("Copies", (Table(columns, rows_of(*rows)),))
    if session.communication:
        collective_columns = (
            Column("stage"),
            Column("collective"),
            Column("count", "count"),
            Column("time", "seconds"),
            Column("not hidden", "seconds"),
        )
        rows = [
            [row.stage, row.name[:NAME_LENGTH], row.count, row.seconds, row.exposed_seconds]
            for row in session.communication
        ]
        yield Section("Communication between devices", (Table(collective_columns, rows_of(*rows)),))


def _several(session: Session) -> Iterator[Section]:
    if session.devices:
        columns = (
            Column("device", "count"),
            Column("name"),
            Column("busy", "seconds"),
            Column("idle", "seconds"),
            Column("busy alone", "seconds"),
            Column("operations", "count"),
        )
        rows: list[list[Cell]] = [
            [
                device.device,
                device.name,
                device.busy_seconds,
                device.idle_seconds,
                device.alone_seconds,
                device.operations,
            ]
            for device in session.devices
        ]
        yield Section("By device", (Table(columns, rows_of(*rows)),))
    if session.ranks:
        rank_columns = (
            Column("rank", "count"),
            Column("wall clock", "seconds"),
            Column("busy", "seconds"),
            Column("collectives", "seconds"),
            Column("waited for others", "seconds"),
        )
        rows = [
            [
                rank.rank,
                rank.wall_seconds,
                rank.busy_seconds,
                rank.communication_seconds,
                rank.waited_seconds,
            ]
            for rank in session.ranks
        ]
        yield Section("By rank", (Table(rank_columns, rows_of(*rows)),))


def _rates(session: Session) -> Iterator[Section]:
    if not session.operations:
        return
    columns = (
        Column("operator"),
        Column("shapes", wide=True),
        Column("stage"),
        Column("count", "count"),
        Column("time", "seconds"),
        Column("rate", "flops_per_second"),
        Column("at the roofline", "seconds"),
    )
    rows: list[list[Cell]] = [
        [
            rate.name,
            rate.shapes,
            rate.stage,
            rate.count,
            rate.seconds,
            rate.flops_per_second,
            rate.roofline_seconds,
        ]
        for rate in session.operations
    ]
    title = "Operators furthest from the card's roofline"
    yield Section(title, (Table(columns, rows_of(*rows)),), console=False)
