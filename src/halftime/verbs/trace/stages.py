"""What the device did in each stage: busy and idle by cause, launches, kernels, its bound."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from halftime.base.stats import median
from halftime.records import DeviceTotals, KernelTotal, StageOnDevice
from halftime.verbs.trace.device import CAUSES, GRAPH, Gap, launch_latency, queue_depth, union
from halftime.verbs.trace.read import NONE, Ints, Mask, Trace
from halftime.verbs.trace.tree import Interval

NANO = 1e-9
TOP_KERNELS = 5
OUTSIDE = "outside"
# Idle for the host's sake above this share of a stage: launch-bound.
LAUNCH_BOUND = 0.25
# Share of the busy time in kernels of one kind above which that kind names the bound.
DOMINANT = 0.5
# Kernels whose time goes into arithmetic, by the names that cuBLAS, cuDNN, CUTLASS, FlashAttention
# and rocBLAS give.
COMPUTE = re.compile(
    r"gemm|conv|wgrad|dgrad|fprop|xmma|cutlass|sm\d\d_|flash|fmha|attention|attn|mma|Cijk_|winograd|cudnn_",
    re.IGNORECASE,
)
DIRECTIONS = {
    "HtoD": re.compile(r"HtoD|HostToDevice"),
    "DtoH": re.compile(r"DtoH|DeviceToHost"),
    "DtoD": re.compile(r"DtoD|DeviceToDevice"),
}


def totals(trace: Trace, idle: Sequence[Gap]) -> DeviceTotals | None:
    """The device's time line, from its first operation to its last; None without operations."""
    if not len(trace.device):
        return None
    merged = union(trace.device)
    return DeviceTotals(
        busy_seconds=merged.busy * NANO,
        idle_seconds=(merged.span - merged.busy) * NANO,
        idle_by_cause=_by_cause(idle),
        kernels=len(trace.device),
        memcpy_bytes=_memcpy_bytes(trace),
    )


def _by_cause(idle: Sequence[Gap]) -> dict[str, float]:
    return {cause: sum(gap.cause.get(cause, 0) for gap in idle) * NANO for cause in CAUSES}


def _memcpy_bytes(trace: Trace) -> dict[str, int]:
    sized = trace.device.bytes != NONE
    volumes = {
        direction: int(trace.device.bytes[sized & trace.named(trace.device, pattern)].sum())
        for direction, pattern in DIRECTIONS.items()
    }
    return {direction: volume for direction, volume in volumes.items() if volume}


def on_device(
    trace: Trace,
    intervals: Sequence[Interval],
    host_intervals: Sequence[Interval],
    idle: Sequence[Gap],
    launched_by: Ints,
    steps: int | None,
) -> tuple[StageOnDevice, ...]:
    """One record per stage, in order of their beginnings; `intervals` are on the device's clock."""
    stages = list(dict.fromkeys(stage for stage, _, _ in intervals))
    return tuple(
        _stage(trace, stage, intervals, host_intervals or intervals, idle, launched_by, steps)
        for stage in stages
    )


def inside(moments: Ints, intervals: Sequence[Interval], stage: str) -> Mask:
    """Which moments lie in an interval of the stage; intervals may nest and overlap."""
    mine = sorted((start, end) for name, start, end in intervals if name == stage)
    if not mine:
        return np.zeros(len(moments), bool)
    starts = np.array([start for start, _ in mine], np.int64)
    reach = np.maximum.accumulate(np.array([end for _, end in mine], np.int64))
    at = np.searchsorted(starts, moments, side="right") - 1
    return (at >= 0) & (moments < reach[np.maximum(at, 0)])


def stages_at(moments: Ints, intervals: Sequence[Interval]) -> list[str]:
    """The stage of each moment, or OUTSIDE; of overlapping stages the one listed first counts."""
    names = np.full(len(moments), OUTSIDE, dtype=object)
    for stage in reversed(dict.fromkeys(name for name, _, _ in intervals)):
        names[inside(moments, intervals, stage)] = stage
    return [str(stage) for stage in names]


def _stage(
    trace: Trace,
    stage: str,
    intervals: Sequence[Interval],
    host_intervals: Sequence[Interval],
    idle: Sequence[Gap],
    launched_by: Ints,
    steps: int | None,
) -> StageOnDevice:
    mine = inside(trace.device.start, intervals, stage)
    part = Trace(trace.names, trace.device.where(mine), trace.runtime, trace.host)
    by = launched_by[mine]
    gaps = [gap for gap in idle if mine[gap.before]]
    seconds = sum((end - start) * NANO for name, start, end in intervals if name == stage)
    busy = union(part.device).busy * NANO
    latency, depth = launch_latency(part, by), queue_depth(part, by)
    kernels = len(part.device)
    return StageOnDevice(
        stage=stage,
        busy_seconds=busy,
        idle_seconds=max(0.0, seconds - busy),
        idle_by_cause=_by_cause(gaps),
        bound=_bound(part, gaps, seconds),
        kernels=kernels,
        kernels_per_step=kernels / steps if steps and stage == "denoise" else None,
        launch_latency_seconds=median(latency.tolist()) * NANO if len(latency) else None,
        queue_depth=median(depth.tolist()) if len(depth) else None,
        graph_replays=_graph_replays(trace, host_intervals, stage),
        memory_growth_bytes=_memory_growth(trace, host_intervals, stage),
        top_kernels=_top_kernels(part),
    )


def _bound(part: Trace, gaps: Sequence[Gap], seconds: float) -> str:
    """Idle for the host, or else the kind of kernel, by name, that takes most of the time."""
    if not len(part.device) or seconds <= 0:
        return "unknown"
    waiting = sum(gap.cause.get("host", 0) + gap.cause.get("sync", 0) for gap in gaps) * NANO
    if waiting > LAUNCH_BOUND * seconds:
        return "launch-bound"
    durations = part.device.duration
    compute = durations[part.named(part.device, COMPUTE)].sum() / max(1, durations.sum())
    return "compute-bound" if compute > DOMINANT else "memory-bound"


def _graph_replays(trace: Trace, intervals: Sequence[Interval], stage: str) -> int:
    replays = trace.named(trace.runtime, GRAPH)
    return int((replays & inside(trace.runtime.start, intervals, stage)).sum())


def _memory_growth(trace: Trace, intervals: Sequence[Interval], stage: str) -> int | None:
    held = trace.memory_allocated[inside(trace.memory_time, intervals, stage)]
    return int(held[-1] - held[0]) if len(held) > 1 else None


def _top_kernels(part: Trace) -> tuple[KernelTotal, ...]:
    if not len(part.device):
        return ()
    seconds = np.bincount(part.device.name, part.device.duration, len(part.names)) * NANO
    counts = np.bincount(part.device.name, minlength=len(part.names))
    ranked = [int(name) for name in np.argsort(-seconds) if counts[name]][:TOP_KERNELS]
    return tuple(
        KernelTotal(name=part.names[at], count=int(counts[at]), seconds=float(seconds[at]))
        for at in ranked
    )
