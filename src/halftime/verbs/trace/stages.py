"""What the device did in each stage: busy and idle by cause, launches, kernels, its bound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from halftime.base.ledger import LOOP
from halftime.base.stats import median
from halftime.records import DeviceTotals, KernelTotal, StageOnDevice
from halftime.verbs.trace import vendors
from halftime.verbs.trace.device import Gaps, launch_latency, queue_depth, union
from halftime.verbs.trace.movement import bytes_of, communicates, copies
from halftime.verbs.trace.read import NONE, Ints, Mask, Names, Trace, distinct
from halftime.verbs.trace.tree import GUESS, Interval

NANO = 1e-9
TOP_KERNELS = 5
OUTSIDE = "outside"
STEPPING = (LOOP.stage, GUESS)
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


def totals(trace: Trace, idle: Gaps, launched_by: Ints) -> DeviceTotals | None:
    """The time line of all devices, from the first operation to the last; None without any."""
    if not len(trace.device):
        return None
    merged = union(trace.device)
    return DeviceTotals(
        busy_seconds=merged.busy * NANO,
        idle_seconds=(merged.span - merged.busy) * NANO,
        idle_by_cause=_seconds(idle),
        kernels=len(trace.device),
        memcpy_bytes=_memcpy_bytes(trace, launched_by),
    )


def _seconds(idle: Gaps) -> dict[str, float]:
    return {cause: length * NANO for cause, length in idle.by_cause().items()}


def _memcpy_bytes(trace: Trace, launched_by: Ints) -> dict[str, int]:
    sizes = bytes_of(trace, launched_by)
    volumes = {
        direction: int(sizes[(sizes != NONE) & trace.named(trace.device, pattern)].sum())
        for direction, pattern in vendors.DIRECTIONS.items()
    }
    return {direction: volume for direction, volume in volumes.items() if volume}


def on_device(
    trace: Trace,
    intervals: Sequence[Interval],
    host_intervals: Sequence[Interval],
    idle: Gaps,
    launched_by: Ints,
    steps: int | None,
) -> tuple[StageOnDevice, ...]:
    """One record per stage, in order of their beginnings; `intervals` are on the device's clock.

    `steps` are those of the whole recording. Work outside of every stage has a record of its own.
    """
    stages = [
        stage
        for stage in dict.fromkeys(stage for stage, _, _ in intervals)
        if stage != OUTSIDE or inside(trace.device.start, intervals, OUTSIDE).any()
    ]
    return tuple(
        _stage(trace, stage, intervals, host_intervals, idle, launched_by, steps)
        for stage in stages
    )


def inside(moments: Ints, intervals: Sequence[Interval], stage: str) -> Mask:
    """Which moments lie in an interval of the stage; intervals may nest and overlap."""
    own = sorted((start, end) for name, start, end in intervals if name == stage)
    if not own:
        return np.zeros(len(moments), bool)
    starts = np.array([start for start, _ in own], np.int64)
    reach = np.maximum.accumulate(np.array([end for _, end in own], np.int64))
    at = np.searchsorted(starts, moments, side="right") - 1
    return (at >= 0) & (moments < reach[np.maximum(at, 0)])


def stages_at(moments: Ints, intervals: Sequence[Interval]) -> Names:
    """The stage of each moment, or OUTSIDE; of overlapping stages the one listed first counts."""
    names = np.full(len(moments), OUTSIDE, dtype=object)
    for stage in reversed(dict.fromkeys(name for name, _, _ in intervals)):
        names[inside(moments, intervals, stage)] = stage
    return names


def _stage(
    trace: Trace,
    stage: str,
    intervals: Sequence[Interval],
    host_intervals: Sequence[Interval],
    idle: Gaps,
    launched_by: Ints,
    steps: int | None,
) -> StageOnDevice:
    own = inside(trace.device.start, intervals, stage)
    part = replace(trace, device=trace.device.where(own))
    by = launched_by[own]
    gaps = idle.where(own[idle.before])
    seconds = sum((end - start) * NANO for name, start, end in intervals if name == stage)
    busy = union(part.device).busy * NANO
    latency, depth = launch_latency(part, by), queue_depth(part, by)
    operations = len(part.device)
    return StageOnDevice(
        stage=stage,
        busy_seconds=busy,
        idle_seconds=max(0.0, seconds - busy),
        idle_by_cause=_seconds(gaps),
        bound=_bound(part, gaps, seconds, busy),
        kernels=operations,
        kernels_per_step=operations / steps if steps and stage in STEPPING else None,
        launch_latency_seconds=median(latency) * NANO if len(latency) else None,
        queue_depth=median(depth) if len(depth) else None,
        graph_replays=_graph_replays(trace, by),
        memory_growth_bytes=_memory_growth(trace, host_intervals or intervals, stage),
        top_kernels=_top_kernels(part),
    )


def _bound(part: Trace, gaps: Gaps, seconds: float, busy: float) -> str:
    """What most of the stage's time goes into, by what is recorded.

    First whether the device waits for the host, then whether it moves data instead of computing,
    then whether it does more of nothing than of anything; the kind of kernel, by name, comes last.
    """
    if not len(part.device) or seconds <= 0:
        return "unknown"
    waiting = sum(int(gaps.cause(cause).sum()) for cause in ("host", "sync", "allocator")) * NANO
    if waiting > LAUNCH_BOUND * seconds:
        return "launch-bound"
    durations = part.device.duration
    total = max(1, int(durations.sum()))
    if int(durations[communicates(part)].sum()) > DOMINANT * total:
        return "communication-bound"
    if int(durations[copies(part)].sum()) > DOMINANT * total:
        return "transfer-bound"
    if seconds - busy > busy:
        return "idle"
    compute = int(durations[part.named(part.device, COMPUTE)].sum())
    return "compute-bound" if compute > DOMINANT * total else "memory-bound"


def _graph_replays(trace: Trace, launched_by: Ints) -> int:
    """Calls that replay a graph and launched any of these operations."""
    replays = trace.named(trace.runtime, vendors.GRAPH)
    return int(replays[distinct(launched_by[launched_by != NONE])].sum())


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
