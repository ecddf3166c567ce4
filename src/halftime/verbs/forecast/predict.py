"""Seconds of a piece of work on a GPU, with the band: its operations' roofline against its host."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from halftime.records import Record
from halftime.records.gpus import Gpu
from halftime.verbs.forecast import host
from halftime.verbs.forecast.cache import Traced, trace_of
from halftime.verbs.forecast.constants import (
    UNMEASURED,
    UNMEASURED_COMPUTE,
    UNMEASURED_MEMORY,
    Constants,
)
from halftime.verbs.forecast.ops import StageTrace
from halftime.verbs.forecast.quantised import doubt
from halftime.verbs.forecast.roofline import (
    OpSeconds,
    OpTable,
    limits_of,
    op_seconds,
    softmax,
    table_of,
)

# Two-sided 90 % of a normal distribution.
Z90 = 1.645


class ComponentRun(Record, frozen=True, kw_only=True):
    """One component, run `times` in one call.

    `step_work` is the host's other work of a step, as a share of the common one.
    """

    traced: Traced
    dtype: str
    compiled: bool = False
    times: float = 1
    channels_last: bool = False
    engine: bool = False  # TensorRT and the like
    captured: bool = False  # the whole loop is a graph: the host issues nothing
    step_work: float = 0.0
    cards: int = 1  # that share one forward of the device
    saved_operations: float = 0.0  # operations that a fix folds into others, per forward


class StageWork(Record, frozen=True, kw_only=True):
    """What one stage does in one call: runs of components, and the host's own work."""

    stage: str
    runs: tuple[ComponentRun, ...] = ()
    pixels: float = 0.0  # turned into pictures
    calls: float = 0.0  # each with the pipeline's own overhead


class Effects(NamedTuple):
    """Logarithms of one machine's factors on top of the constants: rates, bandwidth, host costs."""

    compute: float = 0.0
    memory: float = 0.0
    host: float = 0.0


NO_EFFECTS = Effects()


class Forward(NamedTuple):
    """One forward, in seconds."""

    device: float
    host: float
    seconds: float


@lru_cache(maxsize=4096)
def _table(traced_key: bytes, compiled: bool, channels_last: bool, dtype: str) -> OpTable:
    trace = _traces[traced_key]
    return table_of(
        trace.compiled if compiled else trace.eager,
        compiled=compiled,
        channels_last=channels_last,
        dtype=dtype,
    )


_traces: dict[bytes, StageTrace] = {}


def operations_of(run: ComponentRun) -> tuple[StageTrace, OpTable]:
    """The trace of a run's component and its operations as a table."""
    key = msgspec.json.encode(run.traced, order="deterministic")
    if key not in _traces:
        _traces[key] = trace_of(run.traced)
    return _traces[key], _table(key, run.compiled or run.engine, run.channels_last, run.dtype)


def op_times(
    run: ComponentRun, gpu: Gpu, constants: Constants, effects: Effects = NO_EFFECTS
) -> tuple[OpTable, OpSeconds]:
    """The operations of one forward and the seconds of each."""
    _, table = operations_of(run)
    limits = limits_of(gpu, run.dtype, constants)
    limits = dataclasses.replace(
        limits,
        compute=limits.compute * math.exp(effects.compute),
        memory=limits.memory * math.exp(effects.memory),
    )
    return table, op_seconds(table, limits, constants.values)


def host_factor(gpu: Gpu, constants: Constants, effects: Effects) -> float:
    """What this machine's host costs against the common one."""
    return math.exp(effects.host) * host.class_factor(host.class_of(gpu), constants.values)


# A what-if table asks for the same forwards again and again. Holding the constants keeps their id
# unique.
_forwards: dict[tuple[bytes, str, int, Effects], tuple[Constants, Forward]] = {}
_MOST_FORWARDS = 20_000


def forward(
    run: ComponentRun, gpu: Gpu, constants: Constants, effects: Effects = NO_EFFECTS
) -> Forward:
    """One forward of a run, with the host's work of its step."""
    once = msgspec.structs.replace(run, times=1)
    key = (msgspec.json.encode(once, order="deterministic"), gpu.name, id(constants), effects)
    if key not in _forwards:
        if len(_forwards) > _MOST_FORWARDS:
            _forwards.clear()
        _forwards[key] = (constants, _forward(run, gpu, constants, effects))
    return _forwards[key][1]


def _forward(run: ComponentRun, gpu: Gpu, constants: Constants, effects: Effects) -> Forward:
    table, seconds = op_times(run, gpu, constants, effects)
    trace, _ = operations_of(run)
    device = float(np.sum(table.count * seconds.total)) * (
        constants["engine"] if run.engine else 1.0
    )
    device -= run.saved_operations * constants["kernel"]
    device /= run.cards
    work = host.operations(trace, compiled=run.compiled or run.engine) - run.saved_operations * (
        not run.compiled
    )
    issued = constants["dispatch"] * work + constants["step"] * run.step_work
    busy = 0.0 if run.captured else host_factor(gpu, constants, effects) * issued
    return Forward(device, busy, float(softmax(np.array(device), np.array(busy))))


def work_seconds(
    work: StageWork, gpu: Gpu, constants: Constants, effects: Effects = NO_EFFECTS
) -> float:
    """Seconds of a stage."""
    own = constants["call"] * work.calls + constants["pixel"] * work.pixels
    runs = sum(run.times * forward(run, gpu, constants, effects).seconds for run in work.runs)
    return runs + own * host_factor(gpu, constants, effects)


def total_seconds(
    works: Sequence[StageWork], gpu: Gpu, constants: Constants, effects: Effects = NO_EFFECTS
) -> float:
    """Seconds of a whole call."""
    return sum(work_seconds(work, gpu, constants, effects) for work in works)


class Machine(NamedTuple):
    """A GPU with the constants, the centre of its effects, and how certain that is."""

    gpu: Gpu
    constants: Constants
    effects: Effects
    covariance: NDArray[np.float64]  # 3 x 3, of the effects
    calibrated_on: str


def uncalibrated(gpu: Gpu, constants: Constants, beside: str | None = None) -> Machine:
    """The GPU as the fit knows it, beside an unknown host of its usual class, or `beside` a named
    one."""
    fitted = constants.gpus.get(gpu.name)
    covariance = np.zeros((3, 3))
    if fitted:
        compute, both, memory = fitted.covariance
        covariance[:2, :2] = [[compute, both], [both, memory]]
        basis = f"{fitted.rows} published measurements on the {gpu.name}"
    elif gpu.architecture in UNMEASURED:
        covariance[:2, :2] = np.diag([UNMEASURED_COMPUTE**2, UNMEASURED_MEMORY**2])
        basis = (
            f"datasheet values of the {gpu.name} alone: no card of its maker was measured, so the "
            "band is a guess"
        )
    else:
        covariance[:2, :2] = np.diag([constants.gpu_compute**2, constants.gpu_memory**2])
        basis = f"datasheet values of the {gpu.name} alone: no measurement of it was available"
    if beside is None:
        covariance[2, 2] = constants.host**2
        return Machine(gpu, constants, Effects(), covariance, basis)
    named = host.host_named(beside, gpu, constants.values)
    covariance[2, 2] = named.spread**2
    return Machine(gpu, constants, Effects(host=named.effect), covariance, basis)


def gradient(seconds: Callable[[Effects], float], at: Effects) -> NDArray[np.float64]:
    """d log(seconds) / d effects, by differences."""
    delta = 1e-3
    here = math.log(seconds(at))
    there = [
        math.log(seconds(at._replace(**{name: getattr(at, name) + delta})))
        for name in Effects._fields
    ]
    return np.array([(value - here) / delta for value in there])


# Engines (TensorRT) fuse what the trace cannot know: of log(seconds), on top of the rest.
ENGINE_DOUBT = 0.25


def doubt_of(works: Sequence[StageWork]) -> float:
    """Standard deviation of log(seconds) that how a component runs adds: the largest of them."""
    return max(
        (
            max(doubt(run.dtype), ENGINE_DOUBT if run.engine else 0.0)
            for work in works
            for run in work.runs
        ),
        default=0.0,
    )


def spread(slope: NDArray[np.float64], machine: Machine, more: float = 0.0) -> float:
    """Standard deviation of log(seconds): of the machine, the model family, between sources, and
    what `doubt_of` adds."""
    variance = float(slope @ machine.covariance @ slope)
    return math.sqrt(variance + machine.constants.family**2 + machine.constants.source**2 + more**2)
