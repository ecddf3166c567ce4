"""CUDA only: how long the device worked and the host waited in each stage, from one traced call.

Events tell when the device reached a moment, not what it did until then. Kernel durations are true
also while traced, so busy time comes from here, the intervals from the timed runs, and the launch
gap of a stage is the difference.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from torch.profiler import ProfilerActivity, profile

from halftime.records import LedgerRow, Workload
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.traced import PREFIX, ranges

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# CUDA and HIP runtime calls in which the host waits for the device.
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "hipStreamSynchronize",
    "hipDeviceSynchronize",
    "hipEventSynchronize",
    "hipMemcpyWithStream",
)


class HostEvent(NamedTuple):
    """An event on the host's time line, with the time of the kernels that it launched; all in
    seconds."""

    name: str
    start: float
    end: float
    device_seconds: float = 0.0


class Busy(NamedTuple):
    """One stage of one call."""

    device_seconds: float
    blocked_seconds: float


def probe(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> dict[str, Busy]:
    """Stage -> device and blocked seconds of one call under torch.profiler."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        observed_call(pipeline, workload, Recorder(HostClock(), annotate=ranges()), further)
    events = [
        HostEvent(
            event.name,
            event.time_range.start * 1e-6,
            event.time_range.end * 1e-6,
            sum(kernel.duration for kernel in event.kernels) * 1e-6,
        )
        for event in profiler.events()
    ]
    return by_stage(events)


def by_stage(events: Iterable[HostEvent]) -> dict[str, Busy]:
    """Stage -> device and blocked seconds. Work outside every range of ours is left out."""
    events = list(events)
    stages = sorted(
        (event.start, event.end, event.name.removeprefix(PREFIX).split("/")[0])
        for event in events
        if event.name.startswith(PREFIX)
    )
    device: dict[str, float] = defaultdict(float)
    blocked: dict[str, float] = defaultdict(float)
    for event in events:
        stage = _stage_at(event.start, stages)
        if stage is None or event.name.startswith(PREFIX):
            continue
        device[stage] += event.device_seconds
        blocked[stage] += event.end - event.start if event.name in WAITS else 0.0
    return {stage: Busy(device[stage], blocked[stage]) for stage in {*device, *blocked}}


def _stage_at(moment: float, stages: Sequence[tuple[float, float, str]]) -> str | None:
    """The innermost range around a moment: of those that began before it and have not ended, the
    last to begin."""
    index = bisect_right(stages, (moment, float("inf"), ""))
    return next((name for start, end, name in reversed(stages[:index]) if moment < end), None)


def with_device(rows: Iterable[LedgerRow], busy: dict[str, Busy]) -> tuple[LedgerRow, ...]:
    """The ledger with host-blocked time and launch gaps where the probe saw the stage."""
    return tuple(
        msgspec.structs.replace(
            row,
            host_blocked_seconds=busy[row.stage].blocked_seconds,
            launch_gap_seconds=max(0.0, row.seconds - busy[row.stage].device_seconds),
        )
        if row.stage in busy
        else row
        for row in rows
    )
