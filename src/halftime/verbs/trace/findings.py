"""Findings of a trace. Costs are the device's own idle time, so the ceilings are true ones."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records import Finding, StageOnDevice, SyncWait
from halftime.records.finding import ceiling
from halftime.records.fixes import FixName

WORTH_SAYING = 0.02
GROWTH_WORTH_SAYING = 64 << 20  # bytes


def findings(
    wall_seconds: float, stages: tuple[StageOnDevice, ...], waits: tuple[SyncWait, ...]
) -> tuple[Finding, ...]:
    """Costliest first."""
    unsorted = [*_waits(wall_seconds, waits), *_launches(wall_seconds, stages), *_growth(stages)]
    return tuple(sorted(unsorted, key=lambda finding: -(finding.seconds or 0.0)))


def _waits(wall: float, waits: tuple[SyncWait, ...]) -> Iterator[Finding]:
    for stage in dict.fromkeys(wait.stage for wait in waits):
        mine = [wait for wait in waits if wait.stage == stage]
        cost, waited = (
            sum(wait.wall_seconds for wait in mine),
            sum(wait.host_seconds for wait in mine),
        )
        if cost >= WORTH_SAYING * wall:
            places = [frame for wait in mine if wait.wall_seconds for frame in wait.where[:1]]
            yield Finding(
                id="host-waits",
                stage=stage,
                seconds=cost,
                ceiling=ceiling(cost, wall),
                fix="schedule-table" if stage == "denoise" else None,
                message=f"in {stage} the host waits for the device "
                f"{sum(wait.count for wait in mine)} times "
                f"({units.seconds(waited)}, of which {units.seconds(cost)} leave the device idle)",
                where=tuple(dict.fromkeys(places)),
            )


# Stage -> the fix that takes its launches off the host.
LAUNCH_FIXES: dict[str, FixName] = {"denoise": "loop-graph", "vae_decode": "vae-compile"}


def _launches(wall: float, stages: tuple[StageOnDevice, ...]) -> Iterator[Finding]:
    for stage in stages:
        slow = stage.idle_by_cause.get("host", 0.0)
        if slow >= WORTH_SAYING * wall:
            yield Finding(
                id="launch-bound" if stage.bound == "launch-bound" else "launch-gaps",
                stage=stage.stage,
                seconds=slow,
                ceiling=ceiling(slow, wall),
                fix=LAUNCH_FIXES.get(stage.stage),
                message=f"in {stage.stage} the device waits {units.seconds(slow)} for a host that "
                "is too slow "
                f"to launch {units.count(stage.kernels)} operations",
            )


def _growth(stages: tuple[StageOnDevice, ...]) -> Iterator[Finding]:
    for stage in stages:
        grown = stage.memory_growth_bytes or 0
        if stage.stage == "denoise" and grown > GROWTH_WORTH_SAYING:
            yield Finding(
                id="memory-growth",
                stage=stage.stage,
                message=f"device memory grows by {units.size(grown)} over the denoising loop: "
                "something keeps what every step makes",
            )
