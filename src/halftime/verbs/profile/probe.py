"""What costs too much to know in a timed run: FLOPs and memory by stage, each from a short call."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from halftime.pipeline.device import device_of
from halftime.records import MemoryReport, StageMemory, Workload
from halftime.records.stages import Place
from halftime.upstream import pytorch
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.guidance import FirstStep, first_step_watched
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PROBE_STEPS = 2  # every component runs, and every buffer of a step is live at once
OUTSIDE = "between stages"


def flops(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> dict[Place, tuple[float, int]]:
    """Place -> (FLOPs, calls) of a call with at most PROBE_STEPS steps; a multiply-add counts as
    two.

    Counted by torch's FlopCounterMode: matrix products, convolutions and attention, as is usual.
    """
    flops_by_home: dict[Place, float] = defaultdict(float)
    counter = FlopCounterMode(display=False, custom_mapping=_cpu_attention())
    before = 0

    def observe(home: Place | None) -> None:
        nonlocal before
        total = counter.get_total_flops()
        if home:
            flops_by_home[home] += total - before
        before = total

    recorder = Recorder(HostClock(), observe=observe)
    with counter:
        observed_call(pipeline, short(workload), recorder, further)
    calls = Counter(span.place for span in recorder.spans)
    return {home: (value, calls[home]) for home, value in flops_by_home.items() if value}


def _cpu_attention() -> dict[object, Callable[..., int]]:
    """The CPU's fused attention, which the registry of torch 2.13 lacks."""

    def count(
        query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return int(sdpa_flop_count(query, key, value))

    return {pytorch.cpu_attention(): count}


def short(workload: Workload) -> Workload:
    """The workload with as few steps as show everything."""
    return msgspec.structs.replace(workload, steps=min(workload.steps, PROBE_STEPS))


def memory(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> tuple[MemoryReport, FirstStep]:
    """Peak and final memory of each stage, over a call of at most PROBE_STEPS steps; and what the
    denoiser gave in the first of them."""
    device = device_of(pipeline)
    gauge = _gauge_of(device)
    peaks: dict[str, StageMemory] = {}

    def observe(home: Place | None) -> None:
        stage = home.stage if home else OUTSIDE
        peaks[stage] = _merged(peaks.get(stage), gauge.read(stage))

    gauge.read(OUTSIDE)
    recorder = Recorder(HostClock(), observe=observe)
    with first_step_watched(pipeline, recorder) as step:
        observed_call(pipeline, short(workload), recorder, further)
    observe(None)
    report = MemoryReport(
        measure=gauge.measure,
        stages=tuple(peaks.values()),
        of_device=gauge.capacity is not None,
        capacity_bytes=gauge.capacity,
    )
    return report, step


def _merged(before: StageMemory | None, now: StageMemory) -> StageMemory:
    if before is None:
        return now
    return StageMemory(
        stage=now.stage,
        peak_bytes=_larger(before.peak_bytes, now.peak_bytes),
        end_bytes=now.end_bytes,
        reserved_bytes=_larger(before.reserved_bytes, now.reserved_bytes),
    )


def _larger(left: int | None, right: int | None) -> int | None:
    return max((value for value in (left, right) if value is not None), default=None)


class _Gauge(Protocol):
    """`read` gives the memory now and its peak since the last reading; `measure` says of what;
    `capacity` is how much the device has, where its own memory is what is read."""

    measure: str
    capacity: int | None

    def read(self, stage: str) -> StageMemory: ...


def _gauge_of(device: torch.device) -> _Gauge:
    if device.type in ("cuda", "xpu"):
        return _AllocatorGauge(device)
    return _MpsGauge() if device.type == "mps" else _ResidentGauge()


class _AllocatorGauge:
    """CUDA's caching allocator, or XPU's, which has the same functions."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._allocator = getattr(torch, device.type)
        self.measure = (
            f"{device.type.upper()} allocator: tensors (peak, end) and reserved segments; other "
            "processes and libraries not included"
        )
        self.capacity: int | None = int(self._allocator.get_device_properties(device).total_memory)

    def read(self, stage: str) -> StageMemory:
        reading = StageMemory(
            stage=stage,
            peak_bytes=self._allocator.max_memory_allocated(self._device),
            end_bytes=self._allocator.memory_allocated(self._device),
            reserved_bytes=self._allocator.max_memory_reserved(self._device),
        )
        self._allocator.reset_peak_memory_stats(self._device)
        return reading


class _MpsGauge:
    measure = "MPS allocator: tensors at the end of a stage; its peak cannot be known"
    capacity: int | None = None

    def read(self, stage: str) -> StageMemory:
        return StageMemory(stage=stage, end_bytes=torch.mps.current_allocated_memory())


class _ResidentGauge:
    """Linux: VmHWM is the highest resident set since 5 was written to clear_refs (proc(5));
    elsewhere only the end."""

    measure = (
        "resident set of the whole process (weights, libraries and Python included); by stage, "
        "what tensors take is not measured on a CPU"
    )
    capacity: int | None = None

    def __init__(self) -> None:
        self._reset = Path("/proc/self/clear_refs")
        self._status = Path("/proc/self/status")
        self._process = psutil.Process()

    def read(self, stage: str) -> StageMemory:
        reading = StageMemory(
            stage=stage, peak_bytes=self._peak(), end_bytes=self._process.memory_info().rss
        )
        if os.access(self._reset, os.W_OK):
            self._reset.write_text("5")
        return reading

    def _peak(self) -> int | None:
        if not os.access(self._reset, os.W_OK):
            return None
        lines = (line.split() for line in self._status.read_text().splitlines())
        return next(
            (int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:"), None
        )
