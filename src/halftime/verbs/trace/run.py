"""`trace`: read a file, and say where its time went, as a Session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from halftime.base.ledger import Measured, ledger, measured
from halftime.base.version import version
from halftime.records import Environment, LedgerRow, Session, Span, Workload
from halftime.records.priors import with_predictions
from halftime.verbs.trace.device import Gap, gaps, launches
from halftime.verbs.trace.findings import findings
from halftime.verbs.trace.places import ranges
from halftime.verbs.trace.read import Trace, read
from halftime.verbs.trace.stages import on_device, totals
from halftime.verbs.trace.structure import find_loop
from halftime.verbs.trace.syncs import syncs
from halftime.verbs.trace.tree import TracedCall, from_ranges, from_structure, stage_intervals

UNKNOWN = "not recorded in the trace"


@dataclass(frozen=True)
class TraceReading:
    """A trace with what was computed from it; `perfetto` draws on it."""

    trace: Trace
    call: TracedCall
    gaps: list[Gap]
    session: Session


def trace(path: Path | str) -> Session:
    """A Session from a Chrome trace that torch.profiler wrote, plain or gzipped, with or without
    halftime's ranges.

    The ledger adds up to the wall clock of the traced call; tracing itself has slowed it, which is
    among the doubts. Seconds throughout. Raises BadFile if it is not a trace or has no events.
    """
    return explain(path).session


def explain(path: Path | str) -> TraceReading:
    """As `trace`, with the columns that it was computed from."""
    recorded = read(path)
    launched_by = launches(recorded)
    recognised = ranges(recorded)
    call = (
        from_ranges(recorded, recognised, launched_by)
        if recognised
        else from_structure(recorded, find_loop(recorded.device.name))
    )
    run = measured(call.nodes, call.wall_seconds)
    idle = gaps(recorded, launched_by)
    intervals = stage_intervals(call)
    stages = on_device(recorded, intervals, call.host, idle, launched_by, _steps(run.run.spans))
    waits = syncs(recorded, idle, call.host or intervals)
    session = Session(
        kind="trace",
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Path(path).name,
        wall_seconds=call.wall_seconds,
        ledger=_ledger(run),
        findings=findings(call.wall_seconds, stages, waits),
        environment=_environment(recorded),
        workload=Workload(prompts=(UNKNOWN,), device=_device(recorded)),
        runs=(run.run,),
        device=totals(recorded, idle),
        on_device=stages,
        syncs=waits,
        notes=recorded.notes,
        doubts=_doubts(recorded, bool(recognised), bool(call.nodes)),
    )
    return TraceReading(recorded, call, idle, with_predictions(session))


def _ledger(run: Measured) -> tuple[LedgerRow, ...]:
    return ledger([run]) if run.run.wall_seconds > 0 else ()


def _steps(spans: Sequence[Span]) -> int | None:
    steps = {span.step for span in spans if span.step is not None and span.depth == 1}
    return len(steps) or None


def _device(recorded: Trace) -> str:
    return "cuda" if len(recorded.device) else "cpu"


def _environment(recorded: Trace) -> Environment:
    rank = "" if recorded.rank is None else f", rank {recorded.rank}"
    return Environment(
        system=UNKNOWN + rank,
        processor=UNKNOWN,
        cores=0,
        memory_bytes=0,
        threads=0,
        device=_device(recorded),
        device_name=UNKNOWN,
    )


def _doubts(recorded: Trace, has_ranges: bool, has_stages: bool) -> tuple[str, ...]:
    doubts = [
        "the call was traced, which slows the host: confirm what counts with `halftime profile`."
    ]
    if not len(recorded.device):
        doubts.append(
            "the trace holds no device operations: record it with ProfilerActivity.CUDA to see "
            "the device."
        )
    elif not len(recorded.runtime):
        doubts.append(
            "the trace holds no runtime calls, so idle time cannot be told apart by cause: "
            "record both activities."
        )
    if not has_stages:
        doubts.append(
            "no stages were recognised: record with_stack=True, or with `halftime profile "
            "--trace DIR`."
        )
    elif not has_ranges:
        doubts.append(
            "steps were found by repetition and stages before and after them not told apart: "
            "record with_stack=True."
        )
    return tuple(doubts)
