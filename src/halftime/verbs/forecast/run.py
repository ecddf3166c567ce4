"""`forecast`: what each stage of a call would take on a named GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from halftime.base.version import version
from halftime.records.forecast import (
    Bound,
    Calibration,
    Ceiling,
    Forecast,
    OperationShare,
    StageForecast,
)
from halftime.records.gpus import Gpu, gpu_named
from halftime.verbs.forecast.claim import judge, parse_claim
from halftime.verbs.forecast.constants import Constants, shipped
from halftime.verbs.forecast.floor import floor_seconds
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.predict import (
    Z90,
    ComponentRun,
    Effects,
    Machine,
    StageWork,
    doubt_of,
    forward,
    gradient,
    op_times,
    operations_of,
    spread,
    total_seconds,
    uncalibrated,
)
from halftime.verbs.forecast.prices import CONTEXT_BYTES, priced
from halftime.verbs.forecast.quantised import QUANTISED, check_runs
from halftime.verbs.forecast.quantised import weight_bytes as bytes_of_a_weight
from halftime.verbs.forecast.roofline import KINDS, formats
from halftime.verbs.forecast.saved import NONE, calibration_of, machine_after
from halftime.verbs.forecast.scenario import OUTSIDE, ForecastSettings, Scenario, scenario_of
from halftime.verbs.forecast.whatif import fixes_of


def forecast(
    model: str | None = None,
    gpu: str = "A10G",
    *,
    settings: ForecastSettings | None = None,
    claims: Iterable[str] = (),
    prices: Path | str | None = None,
    target_seconds: float | None = None,
    calibration: Calibration | Path | str | None = None,
    constants: Constants | None = None,
    host: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> Forecast:
    """Forecast one warm call of `model` on `gpu`.

    `model` is a built-in name, a folder or cached hub id (configurations are enough), or None for
    the bundled model; `config` is the folder that says what a checkpoint in one file is, `revision`
    that of a hub id. `calibration` is a record or file of `calibrate`; None looks for the one
    saved for this GPU. `host` is a class of CPUs or microseconds an operation, and takes the place
    of a saved calibration. Raises UnknownModel, UnknownDevice or BadInput.
    """
    machine = _machine(gpu, constants or shipped(), host, calibration)
    scenario = scenario_of(
        resolve(model, config=config, revision=revision), settings or ForecastSettings()
    )
    check_runs(machine.gpu, scenario.choice.dtype, compiled=scenario.choice.compiled)
    parsed = [parse_claim(text) for text in claims]
    stages = stages_of(scenario, machine)
    total = total_of(scenario, machine, stages)
    s = scenario.choice
    return Forecast(
        halftime=version(),
        model=scenario.model.name,
        gpu=machine.gpu.name,
        width=s.width,
        height=s.height,
        steps=s.steps,
        batch=s.batch,
        guidance=s.guidance,
        dtype=s.dtype,
        compiled=s.compiled,
        stages=stages,
        total=total,
        fixes=fixes_of(scenario, machine),
        claims=tuple(judge(claim, (*stages, total), machine.gpu, s.dtype) for claim in parsed),
        prices=priced(scenario, prices, target_seconds, machine.constants, cost) if prices else (),
        operations=operations(scenario, machine),
        ceiling=_ceiling(machine.gpu, s.dtype),
        parameters=parameters(scenario),
        memory_bytes=total.memory_bytes,
        gpu_memory_bytes=machine.gpu.memory_bytes,
        fits=total.memory_bytes + CONTEXT_BYTES <= machine.gpu.memory_bytes,
        calibrated_on=machine.calibrated_on,
        notes=notes(scenario, machine, total),
    )


def _machine(
    gpu: str,
    constants: Constants,
    host: str | None,
    calibration: Calibration | Path | str | None,
) -> Machine:
    """The GPU beside its host: a named one, or the one of a calibration."""
    return machine_after(
        uncalibrated(gpu_named(gpu), constants, host),
        calibration_of(NONE if host else calibration, gpu),
    )


def cost(scenario: Scenario, gpu: Gpu, constants: Constants) -> StageForecast:
    """The whole call on one GPU, for the price list."""
    machine = machine_after(uncalibrated(gpu, constants), calibration_of(None, gpu.name))
    return total_of(scenario, machine, stages_of(scenario, machine))


def stages_of(scenario: Scenario, machine: Machine) -> tuple[StageForecast, ...]:
    """One forecast a stage."""
    weights = weight_bytes(scenario)
    return tuple(_stage(work.stage, (work,), machine, weights) for work in scenario.works)


def total_of(
    scenario: Scenario, machine: Machine, stages: Sequence[StageForecast]
) -> StageForecast:
    """The whole call; its memory is that of the hungriest stage."""
    whole_call = _stage("total", scenario.works, machine, weight_bytes(scenario))
    memory = max(stage.memory_bytes for stage in stages)
    return msgspec.structs.replace(whole_call, memory_bytes=memory)


def _stage(
    name: str, works: Sequence[StageWork], machine: Machine, weights: float
) -> StageForecast:
    def seconds(effects: Effects) -> float:
        return total_seconds(works, machine.gpu, machine.constants, effects)

    value = seconds(machine.effects)
    slope = gradient(seconds, machine.effects)
    factor = math.exp(Z90 * spread(slope, machine, doubt_of(works)))
    runs = [run for work in works for run in work.runs]
    forwards = [
        (run, forward(run, machine.gpu, machine.constants, machine.effects)) for run in runs
    ]
    device = sum(run.times * timing.device for run, timing in forwards)
    host = sum(run.times * timing.host for run, timing in forwards)
    tables = [(run, operations_of(run)[1]) for run in runs]
    own = value - total_seconds(
        [_only_runs(work) for work in works], machine.gpu, machine.constants, machine.effects
    )
    return StageForecast(
        stage=name,
        seconds=value,
        low=value / factor,
        high=value * factor,
        floor_seconds=floor_seconds(works, machine.gpu),
        bound="launch" if host + own >= device else _device_bound(runs, machine),
        flops=sum(run.times * float(np.sum(t.count * t.flops)) for run, t in tables),
        bytes=sum(run.times * float(np.sum(t.count * t.bytes)) for run, t in tables),
        kernels=round(sum(run.times * float(np.sum(t.count * t.kernels)) for run, t in tables)),
        device_seconds=device,
        host_seconds=host + own,
        memory_bytes=weights + max((activation_bytes(run) for run in runs), default=0.0),
    )


def _only_runs(work: StageWork) -> StageWork:
    return StageWork(stage=work.stage, runs=work.runs)


def activation_bytes(run: ComponentRun) -> float:
    """Peak of activations; cuDNN holds the input of an eager half-precision convolution of a
    picture twice, in both layouts (published peaks of videos show no such thing)."""
    trace = operations_of(run)[0]
    twice = (
        max((group.read for group in trace.eager if group.kind == "conv"), default=0)
        if run.traced.element == 2
        and run.traced.geometry.frames == 1
        and not (run.compiled or run.channels_last)
        else 0
    )
    return float(trace.peak_activation_bytes + twice)


def _device_bound(runs: Sequence[ComponentRun], machine: Machine) -> Bound:
    """What most of the device's time is spent on."""
    by: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "launch": 0.0}
    for run in runs:
        table, seconds = op_times(run, machine.gpu, machine.constants, machine.effects)
        compute = seconds.compute >= seconds.memory
        busy = run.times * table.count * (seconds.total - seconds.launch)
        by["compute"] += float(np.sum(np.where(compute, busy, 0)))
        by["memory"] += float(np.sum(np.where(compute, 0, busy)))
        by["launch"] += float(np.sum(run.times * table.count * seconds.launch))
    return max(by, key=lambda name: by[name])


def operations(scenario: Scenario, machine: Machine) -> tuple[OperationShare, ...]:
    """Each stage's operations by kind, for the roofline picture; longest first."""
    out: list[OperationShare] = []
    for work in scenario.works:
        for index, kind in enumerate(KINDS):
            seconds = compute = memory = flops = moved = 0.0
            for run in work.runs:
                table, times = op_times(run, machine.gpu, machine.constants, machine.effects)
                mine = np.where(table.kind == index, run.times * table.count, 0.0)
                seconds += float(np.sum(mine * times.total))
                compute += float(np.sum(mine * times.compute))
                memory += float(np.sum(mine * times.memory))
                flops += float(np.sum(mine * table.flops))
                moved += float(np.sum(mine * table.bytes))
            if seconds:
                bound: Bound = "compute" if compute >= memory else "memory"
                share = OperationShare(
                    stage=work.stage,
                    kind=kind,
                    seconds=seconds,
                    flops=flops,
                    bytes=moved,
                    bound=bound,
                )
                out.append(share)
    return tuple(sorted(out, key=lambda share: -share.seconds))


def weight_bytes(scenario: Scenario) -> float:
    """Bytes of all weights, loaded together."""
    unique = {
        (run.traced.class_name, repr(run.traced.config)): run
        for work in scenario.works
        for run in work.runs
    }
    return float(
        sum(
            operations_of(run)[0].parameters * bytes_of_a_weight(run.dtype)
            for run in unique.values()
        )
    )


def parameters(scenario: Scenario) -> dict[str, float]:
    """Component -> number of parameters."""
    by_config = {
        (run.traced.class_name, repr(run.traced.config)): operations_of(run)[0].parameters
        for work in scenario.works
        for run in work.runs
    }
    return {
        c.name: float(by_config[c.class_name, repr(c.config)])
        for c in scenario.model.components
        if (c.class_name, repr(c.config)) in by_config
    }


def _ceiling(gpu: Gpu, dtype: str) -> Ceiling:
    used = formats(gpu, dtype)[1]
    return Ceiling(compute=gpu.peak[used], bandwidth=gpu.bandwidth)


def notes(scenario: Scenario, machine: Machine, total: StageForecast) -> tuple[str, ...]:
    """What a reader must know before trusting the numbers."""
    out = list(scenario.model.notes)
    used = formats(machine.gpu, scenario.choice.dtype)
    if scenario.choice.dtype in QUANTISED:
        out.append(f"{scenario.choice.dtype}: {QUANTISED[scenario.choice.dtype].note}")
    if "fp32" in used and scenario.choice.dtype in ("bf16", "fp16"):
        out.append(
            f"the {machine.gpu.name} has no {scenario.choice.dtype} tensor cores; forecast at "
            "its fp32 rate"
        )
    if total.memory_bytes + CONTEXT_BYTES > machine.gpu.memory_bytes:
        out.append(
            "the call does not fit the card beside the CUDA context: `halftime plan` says which "
            "precision or offload does"
        )
    if any(work.stage == OUTSIDE for work in scenario.works):
        out.append(
            f"'{OUTSIDE}' is what published timings of whole calls hold beside them: fitted, "
            "and your own may be less"
        )
    if "from memory" in machine.gpu.source:
        out.append(
            f"some datasheet values of the {machine.gpu.name} are unverified; see `halftime "
            "forecast gpus`"
        )
    return tuple(out)
