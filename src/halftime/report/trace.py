"""A traced Session as a Report: the ledger, then what only a trace shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from halftime.base import units
from halftime.records import Session
from halftime.report.model import Block, Cell, Column, Report, Section, Table, Text, rows_of
from halftime.report.session import report_of as session_report


def report_of(session: Session) -> Report:
    """The session's report with the device's side after the ledger."""
    base = session_report(session)
    sections = [base.sections[0], *_device(session), *_syncs(session), *base.sections[1:]]
    return dataclasses.replace(base, sections=tuple(sections))


def _device(session: Session) -> Iterator[Section]:
    if session.device is None:
        return
    device = session.device
    causes = ", ".join(
        f"{cause} {units.seconds(value)}" for cause, value in device.idle_by_cause.items()
    )
    blocks: list[Block] = [
        Text(
            f"Busy {units.seconds(device.busy_seconds)}, idle "
            f"{units.seconds(device.idle_seconds)} ({causes}); "
            f"{units.count(device.kernels)} operations"
            + "".join(
                f"; {name} {units.size(volume)}" for name, volume in device.memcpy_bytes.items()
            )
            + "."
        ),
        _stages(session),
    ]
    yield Section("On the device", tuple(blocks))
    rows: list[list[Cell]] = [
        [s.stage, k.name[:90], k.count, k.seconds] for s in session.on_device for k in s.top_kernels
    ]
    columns = (
        Column("stage"),
        Column("kernel"),
        Column("count", "count"),
        Column("time", "seconds"),
    )
    yield Section("Top kernels by stage", (Table(columns, rows_of(*rows)),), console=False)


def _stages(session: Session) -> Table:
    columns = (
        Column("stage"),
        Column("bound"),
        Column("busy", "seconds"),
        Column("idle: host", "seconds"),
        Column("idle: sync", "seconds"),
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
            s.stage,
            s.bound,
            s.busy_seconds,
            s.idle_by_cause.get("host"),
            s.idle_by_cause.get("sync"),
            s.idle_by_cause.get("other"),
            s.kernels,
            s.kernels_per_step,
            s.launch_latency_seconds,
            s.queue_depth,
            s.graph_replays,
            s.memory_growth_bytes,
        ]
        for s in session.on_device
    ]
    return Table(columns, rows_of(*rows))


def _syncs(session: Session) -> Iterator[Section]:
    if not session.syncs:
        return
    columns = (
        Column("wait"),
        Column("stage"),
        Column("count", "count"),
        Column("host waited", "seconds"),
        Column("device idle for it", "seconds"),
        Column("where", wide=True),
    )
    rows: list[list[Cell]] = [
        [w.name, w.stage, w.count, w.host_seconds, w.wall_seconds, " < ".join(w.where[:2])]
        for w in session.syncs
    ]
    yield Section("Where the host waited for the device", (Table(columns, rows_of(*rows)),))
