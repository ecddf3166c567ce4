"""`profile`: one first call, a warm-up, steady runs; then the probes; then a Session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import BadInput
from halftime.base.ledger import STEP, Measured, ledger, steady_wall
from halftime.base.progress import Progress, notebook_bar, silent
from halftime.base.version import version
from halftime.pipeline.device import device_of, this_environment
from halftime.pipeline.load import LoadedPipeline, load
from halftime.records import ColdStart, Environment, LedgerRow, Run, Session, Workload
from halftime.records.priors import with_predictions
from halftime.records.stages import Place
from halftime.upstream import pytorch
from halftime.verbs.profile import compilation, probe
from halftime.verbs.profile.call import outputs_kept, timed_call
from halftime.verbs.profile.clock import clock_for
from halftime.verbs.profile.compilation import CompileCounters
from halftime.verbs.profile.device_probe import probe as device_probe
from halftime.verbs.profile.device_probe import with_device
from halftime.verbs.profile.doubts import doubts
from halftime.verbs.profile.facts import facts
from halftime.verbs.profile.findings import ProfileEvidence, findings
from halftime.verbs.profile.thumbnails import thumbnails

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_CALLED_BEFORE = "called from Python: the first call here may not be its first"


@dataclass(frozen=True)
class ProfileSettings:
    """How often to measure. `warmup` counts calls between the first and the first steady one."""

    runs: int = 5
    warmup: int = 1
    probes: bool = True  # FLOPs, memory, and on CUDA device time: short calls of their own
    pictures: bool = True  # whether the session keeps what the last call drew, small

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warmup < 0:
            raise BadInput(
                f"runs is {self.runs} and warmup {self.warmup}; runs must be 1 or more, warmup "
                "0 or more."
            )


def profile(
    pipeline: DiffusionPipeline | str | None = None,
    workload: Workload | None = None,
    *,
    runs: int = 5,
    warmup: int = 1,
    probes: bool = True,
) -> Session:
    """Measure one call of a pipeline: a Session whose ledger adds up to the wall clock.

    `pipeline` is a diffusers pipeline, or what `halftime.load_pipeline` takes. The pipeline is
    called 1 + `warmup` + `runs` times for `workload`, and, with `probes`, shortly twice more. It is
    left as it was found. Times are seconds; on CUDA those of the device, by events. Raises
    HalftimeError, and whatever the pipeline's own call raises.
    """
    chosen = workload or Workload()
    loaded = (
        load(pipeline, chosen)
        if isinstance(pipeline, str) or pipeline is None
        else LoadedPipeline(pipeline, type(pipeline).__name__, (_CALLED_BEFORE,))
    )
    with notebook_bar() as progress:
        return measure(loaded, chosen, ProfileSettings(runs, warmup, probes), progress=progress)


def measure(
    loaded: LoadedPipeline,
    workload: Workload,
    settings: ProfileSettings,
    *,
    cold_start: ColdStart | None = None,
    progress: Progress = silent,
) -> Session:
    """As `profile`, for a loaded pipeline, with a cold start measured before and with progress."""
    (session,) = measure_in_turns([loaded], workload, settings, progress=progress)
    return msgspec.structs.replace(session, cold_start=cold_start)


def measure_in_turns(
    pipelines: Sequence[LoadedPipeline],
    workload: Workload,
    settings: ProfileSettings,
    *,
    progress: Progress = silent,
) -> list[Session]:
    """A session for each pipeline, called in turns, with a different one first each time.

    What the machine does meanwhile is in all of them, so that their ledgers can be compared.
    """
    environments = [this_environment(str(device_of(loaded.pipeline))) for loaded in pipelines]
    before = compilation.look()
    calls = _calls([loaded.pipeline for loaded in pipelines], workload, settings, progress)
    return [
        with_predictions(_session(*measured, workload, settings, before, progress))
        for measured in zip(pipelines, environments, calls, strict=True)
    ]


def _session(
    loaded: LoadedPipeline,
    environment: Environment,
    calls: Sequence[TimedCall],
    workload: Workload,
    settings: ProfileSettings,
    compiled_before: CompileCounters,
    progress: Progress,
) -> Session:
    pipeline = loaded.pipeline
    first, steady = calls[0], calls[1 + settings.warmup :]
    measured = [call.measured for call in steady]
    rows = ledger(measured, first.measured)
    if settings.probes:
        rows = _with_probes(rows, pipeline, workload, progress)
    report = compilation.report(
        pipeline, compiled_before, calls[settings.warmup].compiled, calls[-1].compiled
    )
    wall, first_wall = steady_wall(measured), first.measured.run.wall_seconds
    evidence = ProfileEvidence(
        wall_seconds=wall,
        first_call_seconds=first_wall,
        ledger=rows,
        facts=facts(pipeline, environment.settings),
        compilation=report,
        load_average=environment.load_average or 0.0,
        cores=environment.cores,
    )
    walls = [call.run.wall_seconds for call in measured]
    return Session(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=loaded.name,
        pipeline=type(pipeline).__name__,
        wall_seconds=wall,
        first_call_seconds=first_wall,
        ledger=rows,
        findings=findings(evidence),
        environment=environment,
        workload=workload,
        workload_hash=workload.content_hash(),
        runs=tuple(call.run for call in measured),
        first_run=first.measured.run,
        memory=probe.memory(pipeline, workload) if settings.probes else None,
        compilation=report,
        pictures=calls[-1].pictures,
        notes=(*loaded.notes, *_unequal_steps(measured[-1].run, workload.steps)),
        doubts=doubts(walls, rows, environment, traced=pytorch.is_tracing()),
    )


def _unequal_steps(run: Run, requested: int) -> tuple[str, ...]:
    """A note where the loop took another number of steps than the workload says: an argument that
    never arrived, or a solver that adds steps."""
    steps = sum(span.name == STEP for span in run.spans)
    if steps in (0, requested):
        return ()
    return (f"{requested} steps were asked for, and the scheduler stepped {steps} times",)


@dataclass(frozen=True)
class TimedCall:
    """One call, and what dynamo had compiled by its end."""

    measured: Measured
    compiled: CompileCounters
    pictures: tuple[str, ...] = ()  # of the last call alone


def _calls(
    pipelines: Sequence[DiffusionPipeline],
    workload: Workload,
    settings: ProfileSettings,
    progress: Progress,
) -> list[list[TimedCall]]:
    """For each pipeline its calls, in their order."""
    clocks = [clock_for(device_of(pipeline)) for pipeline in pipelines]
    calls: list[list[TimedCall]] = [[] for _ in pipelines]
    total = 1 + settings.warmup + settings.runs
    for index in range(total):
        warming = "warm-up" if index <= settings.warmup else "steady run"
        progress("first call" if index == 0 else warming, index, total)
        for shift in range(len(pipelines)):
            turn = (index + shift) % len(pipelines)
            with outputs_kept() as outputs:
                measured = timed_call(pipelines[turn], workload, clocks[turn])
            last = settings.pictures and index == total - 1
            pictures = thumbnails(outputs[0]) if last and outputs else ()
            calls[turn].append(TimedCall(measured, compilation.look(), pictures))
    progress("steady run", total, total)
    return calls


def _with_probes(
    rows: tuple[LedgerRow, ...], pipeline: DiffusionPipeline, workload: Workload, progress: Progress
) -> tuple[LedgerRow, ...]:
    progress("counting FLOPs", 0, 1)
    # A compiled module hides its operations from the counter, which would call the rest the whole.
    if not any(map(pytorch.is_compiled, pipeline.components.values())):
        rows = with_flops(rows, probe.flops(pipeline, workload))
    if device_of(pipeline).type == "cuda":
        progress("tracing the device", 0, 1)
        rows = with_device(rows, device_probe(pipeline, workload))
    progress("measuring memory", 0, 1)
    return rows


def with_flops(
    rows: Sequence[LedgerRow], counted: dict[Place, tuple[float, int]]
) -> tuple[LedgerRow, ...]:
    """Rows with FLOPs and FLOP/s: the probe's count for a call, times the ledger's calls."""
    return tuple(_row_with_flops(row, counted) for row in rows)


def _row_with_flops(row: LedgerRow, counted: dict[Place, tuple[float, int]]) -> LedgerRow:
    by_part = {home.part: value for home, value in counted.items() if home.stage == row.stage}
    if not by_part:
        return row
    calls = {part.stage: part.calls for part in row.parts} or dict.fromkeys(by_part, row.calls)
    flops = {
        part: total / max(probed, 1) * calls.get(part, 0)
        for part, (total, probed) in by_part.items()
    }
    parts = tuple(
        _rated(part, flops[part.stage]) if part.stage in flops else part for part in row.parts
    )
    return msgspec.structs.replace(_rated(row, sum(flops.values())), parts=parts)


def _rated(row: LedgerRow, flops: float) -> LedgerRow:
    return msgspec.structs.replace(
        row, flops=flops, flops_per_second=flops / row.seconds if row.seconds else None
    )
