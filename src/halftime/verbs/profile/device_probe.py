"""CUDA only: how long the device worked, the host waited and copies took in each stage, from one
traced call.

Events tell when the device reached a moment, not what it did until then. Kernel durations are true
also while traced, so busy time comes from here, the intervals from the timed runs, and the launch
gap of a stage is the difference. A copy is hidden where kernels of the same device ran beside it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from torch.profiler import ProfilerActivity, profile

from halftime.records import LedgerRow, Transfer, Workload
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.moves import BETWEEN
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


class DeviceEvent(NamedTuple):
    """A kernel or a copy on a device's time line; all in seconds."""

    name: str
    device: int
    start: float
    end: float


# As torch.profiler names copies between host and device.
_DIRECTIONS = {"Memcpy HtoD": "HtoD", "Memcpy DtoH": "DtoH"}
_NO_KERNEL = ("Memcpy", "Memset", PREFIX)


class DeviceProbe(NamedTuple):
    """What one traced call showed."""

    busy: dict[str, Busy]  # by stage
    transfers: tuple[Transfer, ...]


def probe(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> DeviceProbe:
    """Device and blocked seconds by stage, and the copies, of one call under torch.profiler."""
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
        if event.device_type.name == "CPU"
    ]
    on_device = [
        DeviceEvent(
            event.name,
            event.device_index,
            event.time_range.start * 1e-6,
            event.time_range.end * 1e-6,
        )
        for event in profiler.events()
        if event.device_type.name != "CPU"
    ]
    return DeviceProbe(by_stage(events), transfers(on_device, _ranges(events)))


_Ranges = Sequence[tuple[float, float, str]]


def _ranges(events: Iterable[HostEvent]) -> _Ranges:
    """Begin, end and stage of our own ranges, in order."""
    return sorted(
        (event.start, event.end, event.name.removeprefix(PREFIX).split("/")[0])
        for event in events
        if event.name.startswith(PREFIX)
    )


def transfers(events: Iterable[DeviceEvent], stages: _Ranges) -> tuple[Transfer, ...]:
    """Copies between host and device by direction and by the stage during which they ran, and what
    of them no kernel of the same device hid; the longest first."""
    events = list(events)
    kernels: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if not event.name.startswith(_NO_KERNEL):
            kernels[event.device].append((event.start, event.end))
    work = {device: _merged(spans) for device, spans in kernels.items()}
    groups: dict[tuple[str, str], list[DeviceEvent]] = defaultdict(list)
    for event in events:
        direction = next((d for name, d in _DIRECTIONS.items() if event.name.startswith(name)), "")
        if direction:
            groups[_stage_at(event.start, stages) or BETWEEN, direction].append(event)
    rows = [
        Transfer(
            stage=stage,
            direction=direction,
            count=len(copies),
            seconds=sum(copy.end - copy.start for copy in copies),
            exposed_seconds=sum(_outside(copy, work.get(copy.device, ())) for copy in copies),
        )
        for (stage, direction), copies in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that touch or overlap as one, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _outside(copy: DeviceEvent, work: Sequence[tuple[float, float]]) -> float:
    """Seconds of a copy in which nothing of `work`, which is in order, ran."""
    first = max(0, bisect_right(work, (copy.start, float("inf"))) - 1)
    hidden = 0.0
    for start, end in work[first:]:
        if start >= copy.end:
            break
        hidden += max(0.0, min(end, copy.end) - max(start, copy.start))
    return copy.end - copy.start - hidden


def by_stage(events: Iterable[HostEvent]) -> dict[str, Busy]:
    """Stage -> device and blocked seconds. Work outside every range of ours is left out."""
    events = list(events)
    stages = _ranges(events)
    device: dict[str, float] = defaultdict(float)
    blocked: dict[str, float] = defaultdict(float)
    for event in events:
        stage = _stage_at(event.start, stages)
        if stage is None or event.name.startswith(PREFIX):
            continue
        device[stage] += event.device_seconds
        blocked[stage] += event.end - event.start if event.name in WAITS else 0.0
    return {stage: Busy(device[stage], blocked[stage]) for stage in {*device, *blocked}}


def _stage_at(moment: float, stages: _Ranges) -> str | None:
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
