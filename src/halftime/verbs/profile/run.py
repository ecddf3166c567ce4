"""`profile`: one first call, a warm-up, steady runs; then the probes; then a Session."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import BadInput, HalftimeWarning
from halftime.base.neighbours import Surroundings, look, sentence
from halftime.base.progress import Progress, notebook_bar, silent
from halftime.pipeline.arguments import absorbed, call_arguments
from halftime.pipeline.device import device_of, this_environment
from halftime.pipeline.inputs import described
from halftime.pipeline.load import LoadedPipeline, load_or_take
from halftime.records import ColdStart, LedgerRow, Session, Transfer, Workload
from halftime.records.priors import with_predictions
from halftime.records.stages import Place
from halftime.upstream import pytorch
from halftime.verbs.profile import compilation, probe
from halftime.verbs.profile.adapters import adapter_share
from halftime.verbs.profile.call import outputs_kept, timed_call
from halftime.verbs.profile.clock import clock_for
from halftime.verbs.profile.device_probe import probe as device_probe
from halftime.verbs.profile.device_probe import with_device
from halftime.verbs.profile.evidence import Probed
from halftime.verbs.profile.growth import growth_per_call, held_bytes, left_behind
from halftime.verbs.profile.guidance import guidance_facts
from halftime.verbs.profile.moves import weight_moves
from halftime.verbs.profile.session import MeasuredCalls, TimedCall
from halftime.verbs.profile.thumbnails import drawing_of, thumbnails

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
    **arguments: object,
) -> Session:
    """Measure one call of a pipeline: a Session whose ledger adds up to the wall clock.

    `pipeline` is a diffusers pipeline, or what `halftime.load_pipeline` takes. The pipeline is
    called 1 + `warmup` + `runs` times for `workload`, and, with `probes`, shortly twice more. It is
    left as it was found. `arguments` go to its call as they are: pictures, masks, embeddings; the
    session tells them by their content. Times are seconds; on CUDA those of the device, by events.
    Raises HalftimeError, and whatever the pipeline's own call raises.
    """
    chosen, further = absorbed(workload or Workload(), arguments)
    loaded = load_or_take(pipeline, chosen)
    if loaded.pipeline is pipeline:
        loaded = loaded._replace(notes=(_CALLED_BEFORE,))
    settings = ProfileSettings(runs, warmup, probes)
    with notebook_bar() as progress:
        return measure(loaded, chosen, settings, further=further, progress=progress)


def measure(
    loaded: LoadedPipeline,
    workload: Workload,
    settings: ProfileSettings,
    *,
    cold_start: ColdStart | None = None,
    further: Mapping[str, object] | None = None,
    surroundings: Surroundings | None = None,
    progress: Progress = silent,
) -> Session:
    """As `profile`, for a loaded pipeline, with a cold start measured before and with progress.

    `surroundings` are known where somebody looked before; else they are looked at, and a
    HalftimeWarning says at once who disturbs.
    """
    (session,) = measure_in_turns(
        [loaded],
        workload,
        settings,
        further=further,
        surroundings=surroundings,
        progress=progress,
    )
    return msgspec.structs.replace(session, cold_start=cold_start)


def measure_in_turns(
    pipelines: Sequence[LoadedPipeline],
    workload: Workload,
    settings: ProfileSettings,
    *,
    further: Mapping[str, object] | None = None,
    surroundings: Surroundings | None = None,
    progress: Progress = silent,
) -> list[Session]:
    """A session for each pipeline, called in turns, with a different one first each time.

    What the machine does meanwhile is in all of them, so that their ledgers can be compared.
    """
    # What cannot be called, or not be written down, is refused before anything is measured.
    record = described(workload, further)
    for loaded in pipelines:
        call_arguments(loaded.pipeline, workload, further)
    neighbours = _neighbours(surroundings)
    environments = [this_environment(str(device_of(loaded.pipeline))) for loaded in pipelines]
    before = compilation.look()
    turns = [RepeatedCall(loaded.pipeline, workload, further or {}) for loaded in pipelines]
    sessions = []
    for loaded, turn, environment, calls in zip(
        pipelines, turns, environments, _calls(turns, settings, progress), strict=True
    ):
        measurement = MeasuredCalls(
            loaded,
            record,
            environment,
            first=calls[0],
            steady=calls[1 + settings.warmup :],
            compiled_before=before,
            compiled_warm=calls[settings.warmup].compiled,
            neighbours=neighbours,
        )
        sessions.append(with_predictions(_session(measurement, turn, settings.probes, progress)))
    return sessions


def _neighbours(surroundings: Surroundings | None) -> str:
    """Whose work runs beside, in words; said before the first call, not after the last."""
    words = sentence(look() if surroundings is None else surroundings)
    if words and surroundings is None:
        warnings.warn(f"{words}.", HalftimeWarning, stacklevel=2)
    return words


@dataclass(frozen=True)
class RepeatedCall:
    """What is called again and again: a pipeline, for a workload, with further arguments."""

    pipeline: DiffusionPipeline
    workload: Workload
    further: Mapping[str, object]


def _session(
    measurement: MeasuredCalls, turn: RepeatedCall, probes: bool, progress: Progress
) -> Session:
    rows = measurement.rows()
    if not probes:
        return measurement.session(rows)
    rows, transfers = _with_probes(rows, turn, progress)
    growth = growth_per_call([call.held_bytes for call in measurement.steady])
    return measurement.session(rows, replace(_probed(turn, growth, progress), transfers=transfers))


def _probed(turn: RepeatedCall, growth: int, progress: Progress) -> Probed:
    """What short calls show of memory, guidance, adapters and moving weights."""
    called = (turn.pipeline, turn.workload, turn.further)
    memory, step = probe.memory(*called)
    if growth:
        progress("looking for what memory grows by", 0, 1)
        memory = msgspec.structs.replace(
            memory, growth_per_call=growth, left_behind=left_behind(*called)
        )
    return Probed(
        memory=memory,
        adapter_share=adapter_share(*called),
        moves=weight_moves(*called),
        guidance=guidance_facts(*called, step),
    )


def _calls(
    turns: Sequence[RepeatedCall], settings: ProfileSettings, progress: Progress
) -> list[list[TimedCall]]:
    """For each pipeline its calls, in their order."""
    clocks = [clock_for(device_of(turn.pipeline)) for turn in turns]
    calls: list[list[TimedCall]] = [[] for _ in turns]
    total = 1 + settings.warmup + settings.runs
    for index in range(total):
        warming = "warm-up" if index <= settings.warmup else "steady run"
        progress("first call" if index == 0 else warming, index, total)
        for shift in range(len(turns)):
            number = (index + shift) % len(turns)
            turn = turns[number]
            with outputs_kept() as outputs:
                measured = timed_call(turn.pipeline, turn.workload, clocks[number], turn.further)
            last = settings.pictures and index == total - 1
            pictures = thumbnails(outputs[0]) if last and outputs else ()
            drawing = drawing_of(outputs[0]) if last and outputs else None
            outputs.clear()
            looked = settings.probes and len(turns) == 1  # what others leave is not this one's
            held = held_bytes() if looked and index > settings.warmup else 0
            compiled = compilation.look()
            calls[number].append(TimedCall(measured, compiled, pictures, drawing, held))
    progress("steady run", total, total)
    return calls


def _with_probes(
    rows: tuple[LedgerRow, ...], turn: RepeatedCall, progress: Progress
) -> tuple[tuple[LedgerRow, ...], tuple[Transfer, ...]]:
    """The rows with what probes add, and the copies between host and device."""
    pipeline = turn.pipeline
    transfers: tuple[Transfer, ...] = ()
    progress("counting FLOPs", 0, 1)
    # A compiled module hides its operations from the counter, which would call the rest the whole.
    if not any(map(pytorch.is_compiled, pipeline.components.values())):
        rows = with_flops(rows, probe.flops(pipeline, turn.workload, turn.further))
    if device_of(pipeline).type == "cuda":
        progress("tracing the device", 0, 1)
        traced = device_probe(pipeline, turn.workload, turn.further)
        rows, transfers = with_device(rows, traced.busy), traced.transfers
    progress("measuring memory", 0, 1)
    return rows, transfers


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
