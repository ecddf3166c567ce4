"""`trace`: read a file, and say where its time went, as a Session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from halftime.base.errors import BadInput
from halftime.base.ledger import LOOP, Measured, ledger, measured, steady_wall
from halftime.base.version import version
from halftime.records import Environment, HostGap, LedgerRow, Session, Workload
from halftime.records.environment import NOT_RECORDED
from halftime.records.finding import ceiling
from halftime.records.priors import with_predictions
from halftime.verbs.trace import nsight
from halftime.verbs.trace.alike import differences, refuse_unlike
from halftime.verbs.trace.device import Gaps, gaps, launches
from halftime.verbs.trace.findings import findings
from halftime.verbs.trace.frames import STACK_DEPTH, FrameIdle, frames_of, idle_by_frame
from halftime.verbs.trace.movement import communication, devices, transfers
from halftime.verbs.trace.places import Ranges, calls, is_diffusion, pipeline_of, within_call
from halftime.verbs.trace.ranks import is_one_run, matched, rank_finding, rank_rows, unmatched
from halftime.verbs.trace.rates import operation_rates
from halftime.verbs.trace.read import NONE, Ints, Names, Trace, distinct, read
from halftime.verbs.trace.stages import OUTSIDE, on_device, stages_at, totals
from halftime.verbs.trace.structure import find_loop
from halftime.verbs.trace.syncs import syncs
from halftime.verbs.trace.tree import (
    GUESS,
    Interval,
    TracedCall,
    from_ranges,
    from_structure,
    outside_intervals,
    stage_intervals,
)

NANO = 1e-9
HOST_GAPS = 20  # lines of Python that a session names
# Of the device operations, whose calls are not recorded: the first ones were launched before.
UNLAUNCHED = 0.1


@dataclass(frozen=True)
class TraceReading:
    """A trace with what was computed from it; `perfetto` and the flame graph draw on it."""

    path: Path
    trace: Trace
    calls: tuple[TracedCall, ...]
    gaps: Gaps
    frames: tuple[FrameIdle, ...]
    session: Session

    @property
    def intervals(self) -> list[Interval]:
        """Stages of all calls by the ledger's clock."""
        return [interval for call in self.calls for interval in stage_intervals(call)]


def trace(path: Path | str, *, ranks: Sequence[Path | str] = ()) -> Session:
    """A Session from a Chrome trace of torch.profiler or an SQLite export of Nsight Systems.

    Plain or gzipped, with or without halftime's ranges. `ranks` are the files of the other ranks
    of the same run: the session is that of the slowest, with a row for each. The ledger adds up to
    the wall clock of the traced call, or to the mean of several; tracing itself has slowed it,
    which is among the doubts. Seconds throughout. Raises BadFile if a file is not a trace or has no
    events, BadInput if files are not ranks of one run.
    """
    return explain_ranks([path, *ranks]).session if len(ranks) else explain(path).session


def explain(path: Path | str) -> TraceReading:
    """As `trace`, with the columns that it was computed from."""
    recorded = nsight.read(path) if nsight.is_export(path) else read(path)
    return explained(recorded, Path(path))


def explain_ranks(paths: Sequence[Path | str]) -> TraceReading:
    """The slowest of several ranks of one run, with a row for each."""
    return _together([explain(path) for path in paths])


def explain_files(paths: Sequence[Path]) -> tuple[TraceReading | None, TraceReading]:
    """A baseline, where there is one, and what is shown.

    One file, two to compare, or one of each rank of a run. Raises BadInput for two of different
    workloads, and for more files that are not ranks of one run.
    """
    readings = [explain(path) for path in paths]
    if len(readings) == 1:
        return None, readings[0]
    if len(readings) > 2 or is_one_run([reading.trace for reading in readings]):
        return None, _together(readings)
    baseline, candidate = readings
    refuse_unlike(baseline.session, candidate.session)
    doubts = (*candidate.session.doubts, *differences(baseline.session, candidate.session))
    session = msgspec.structs.replace(candidate.session, doubts=doubts)
    return baseline, replace(candidate, session=session)


def _together(readings: Sequence[TraceReading]) -> TraceReading:
    """The reading of the slowest rank with `ranks` filled in, and a finding on who waits."""
    if not is_one_run([reading.trace for reading in readings]):
        ranks = ", ".join(str(reading.trace.rank) for reading in readings)
        raise BadInput(
            f"the {len(readings)} files are not different ranks of one run (ranks: {ranks}). "
            "Give one file, two to compare, or one of each rank."
        )
    slowest = max(readings, key=lambda reading: reading.session.wall_seconds)
    traces = [reading.trace for reading in readings]
    table = matched(traces)
    rows = rank_rows([(reading.trace, reading.session) for reading in readings], table)
    extra = rank_finding(rows, slowest.session.wall_seconds)
    alone = unmatched(traces, table)
    doubt = (
        f"{alone:,} collectives have no counterpart on each rank, so what ranks wait in them is "
        "not counted: record whole calls of all ranks."
    )
    session = msgspec.structs.replace(
        slowest.session,
        ranks=rows,
        findings=(*slowest.session.findings, *([extra] if extra else [])),
        doubts=(*slowest.session.doubts, *([doubt] if alone else [])),
    )
    return replace(slowest, session=session)


def explained(recorded: Trace, path: Path) -> TraceReading:
    """What a trace that was read from `path` says."""
    launched_by = launches(recorded)
    recognised = calls(recorded)
    traced = _calls(recorded, recognised, launched_by)
    idle = gaps(recorded, launched_by)
    intervals = [interval for call in traced for interval in stage_intervals(call)]
    outside = [interval for call in traced for interval in outside_intervals(call, OUTSIDE)]
    host = [interval for call in traced for interval in call.host]
    runs = [measured(call.nodes, call.wall_seconds) for call in traced]
    stages = stages_at(recorded.device.start, intervals)
    wall = steady_wall(runs)
    frames = _frames(recorded, idle, stages, traced)
    rows = _ledger(runs)
    steps = next((row.per_step.count for row in rows if row.per_step), 0)
    session = Session(
        kind="trace",
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=path.name,
        pipeline=pipeline_of(recorded),
        wall_seconds=wall,
        ledger=rows,
        environment=_environment(recorded),
        workload=Workload(prompts=(NOT_RECORDED,), steps=steps, device=_device(recorded)),
        runs=tuple(run.run for run in runs),
        device=totals(recorded, idle, launched_by),
        on_device=on_device(
            recorded, [*intervals, *outside], host, idle, launched_by, _steps(runs)
        ),
        syncs=syncs(recorded, idle, host or intervals),
        host_gaps=_host_gaps(frames, wall, len(runs)),
        transfers=transfers(recorded, launched_by, stages, len(runs)),
        communication=communication(recorded, stages, len(runs)),
        devices=devices(recorded),
        operations=operation_rates(recorded, stages),
        notes=_notes(recorded, traced),
        doubts=_doubts(recorded, launched_by, recognised, traced),
    )
    session = msgspec.structs.replace(session, findings=findings(session, len(runs)))
    every = tuple(frame for _, frame in frames)
    return TraceReading(path, recorded, tuple(traced), idle, every, with_predictions(session))


def _calls(recorded: Trace, recognised: Sequence[Ranges], launched_by: Ints) -> list[TracedCall]:
    if recognised:
        return from_ranges(recorded, recognised, launched_by)
    loop = find_loop(recorded, launched_by)
    return [from_structure(recorded, loop, LOOP.stage if is_diffusion(recorded) else GUESS)]


def _ledger(runs: Sequence[Measured]) -> tuple[LedgerRow, ...]:
    return ledger(runs) if steady_wall(runs) > 0 else ()


def _steps(runs: Sequence[Measured]) -> int | None:
    """Denoising steps of all calls together."""
    steps = {
        (at, span.step)
        for at, run in enumerate(runs)
        for span in run.run.spans
        if span.step is not None and span.depth == 1
    }
    return len(steps) or None


def _frames(
    recorded: Trace,
    idle: Gaps,
    stages: Names,
    traced: Sequence[TracedCall],
) -> list[tuple[str, FrameIdle]]:
    """Stage and frame of all idle time that the device spent waiting for Python."""
    frames = frames_of(recorded)
    if not len(frames):
        return []
    if not len(recorded.device):
        start, end = _glue(traced)
        thread = np.full(len(start), np.bincount(frames.thread).argmax(), np.int64)
        return [
            (LOOP.stage, frame) for frame in idle_by_frame(recorded, frames, start, end, thread)
        ]
    # Whether the host had waited before or was only slow, what it then did kept the device idle.
    start, end = idle.start, idle.end - idle.other
    ended = stages[idle.before]
    rows: list[tuple[str, FrameIdle]] = []
    for stage in dict.fromkeys(ended.tolist()):
        own = (ended == stage) & (end > start)
        rows += [
            (stage, frame)
            for frame in idle_by_frame(recorded, frames, start[own], end[own], idle.thread[own])
        ]
    return rows


def _glue(traced: Sequence[TracedCall]) -> tuple[Ints, Ints]:
    """On a recording without a device: what lies in a loop and in none of its components."""
    starts: list[int] = []
    ends: list[int] = []
    for call in traced:
        loop = next(
            (interval for interval in reversed(call.host) if interval[0] == LOOP.stage), None
        )
        if loop is None:
            continue
        reach = loop[1]
        for _, start, end in sorted(call.host[:-1], key=lambda interval: interval[1]):
            if loop[1] <= start and end <= loop[2]:
                if start > reach:
                    starts.append(reach)
                    ends.append(start)
                reach = max(reach, end)
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _host_gaps(
    frames: Sequence[tuple[str, FrameIdle]], wall: float, runs: int
) -> tuple[HostGap, ...]:
    """Lines of Python by the idle time of the device while the host was in them, longest first."""
    idle: dict[tuple[str, str], int] = {}
    callers: dict[tuple[str, str], tuple[str, ...]] = {}
    for stage, frame in frames:
        key = stage, frame.stack[0]
        idle[key] = idle.get(key, 0) + frame.idle
        callers.setdefault(key, within_call(frame.stack)[1:STACK_DEPTH])
    ranked = sorted(idle, key=lambda key: -idle[key])[:HOST_GAPS]
    return tuple(
        HostGap(
            frame=line,
            stage=stage,
            seconds=(seconds := idle[stage, line] * NANO / runs),
            share=seconds / wall if wall else 0.0,
            ceiling=ceiling(seconds, wall),
            where=callers[stage, line],
        )
        for stage, line in ranked
    )


def _device(recorded: Trace) -> str:
    return recorded.vendor if len(recorded.device) else "cpu"


def _environment(recorded: Trace) -> Environment:
    rank = "" if recorded.rank is None else f", rank {recorded.rank}"
    numbers = distinct(recorded.device.device) or list(recorded.device_names)
    names = {name for number in numbers if (name := recorded.device_name(number))}
    memory = list(recorded.device_memory.values())
    return Environment(
        system=NOT_RECORDED + rank,
        processor=NOT_RECORDED,
        cores=0,
        memory_bytes=0,
        threads=0,
        device=_device(recorded),
        device_name=" and ".join(sorted(names)) or NOT_RECORDED,
        device_memory_bytes=memory[0] if memory else None,
    )


def _notes(recorded: Trace, traced: Sequence[TracedCall]) -> tuple[str, ...]:
    notes = list(recorded.notes)
    if len(traced) > 1:
        notes.append(
            f"{len(traced)} calls were recorded: everything here is of one call on average"
        )
    return tuple(notes)


def _doubts(
    recorded: Trace, launched_by: Ints, recognised: Sequence[Ranges], traced: Sequence[TracedCall]
) -> tuple[str, ...]:
    doubts = [
        "the call was traced, which slows the host: confirm what counts with `halftime profile`."
    ]
    if recorded.cut:
        doubts.append(
            "the file is cut off, so events at its end are missing, device operations perhaps "
            "among them: copy it again, or record a shorter call."
        )
    elif not len(recorded.device):
        doubts.append(
            "the trace holds no device operations: record it with ProfilerActivity.CUDA to see "
            "the device."
        )
    elif not len(recorded.runtime):
        doubts.append(
            "the trace holds no runtime calls, so idle time cannot be told apart by cause: "
            "record both activities."
        )
    elif (unknown := int((launched_by == NONE).sum())) > UNLAUNCHED * len(recorded.device):
        doubts.append(
            f"{unknown:,} of {len(recorded.device):,} device operations do not say which call "
            "launched them, so their idle time counts as 'other' and their stage is uncertain: "
            "record host and device together."
        )
    if recognised:
        return tuple(doubts)
    if not traced[0].nodes:
        doubts.append(
            "no stages were recognised: record with_stack=True, or with `halftime profile "
            "--trace DIR`."
        )
    elif is_diffusion(recorded):
        doubts.append(
            "steps were found by repetition and stages before and after them not told apart: "
            "record with_stack=True."
        )
    else:
        doubts.append(
            "nothing recorded names a diffusion pipeline, so what repeats is a guess at its "
            "steps and no stage is named: record with_stack=True."
        )
    return tuple(doubts)
