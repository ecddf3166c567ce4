"""Findings of a trace. Costs are the device's own idle time, so the ceilings are true ones."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records import Finding, Session, StageOnDevice
from halftime.records.finding import ceiling
from halftime.records.fixes import FixName
from halftime.verbs.trace.stages import OUTSIDE

WORTH_SAYING = 0.02
GROWTH_WORTH_SAYING = 64 << 20  # bytes
LINES = 3  # lines of Python named for a stage
# Stage -> the fix that takes its launches off the host.
LAUNCH_FIXES: dict[str, FixName] = {"denoise": "loop-graph", "vae_decode": "vae-compile"}
WAIT_FIXES: dict[str, FixName] = {"denoise": "schedule-table"}


def findings(session: Session, calls: int) -> tuple[Finding, ...]:
    """Costliest first. What the device did is of the whole recording, and is divided by `calls`."""
    rows = [
        *_waits(session, calls),
        *_launches(session, calls),
        *_lines(session),
        *_allocator(session, calls),
        *_latency(session, calls),
        *_transfers(session),
        *_communication(session),
        *_devices(session),
        *_growth(session.on_device),
    ]
    return tuple(sorted(rows, key=lambda finding: -(finding.seconds or 0.0)))


def _worth(session: Session, seconds: float) -> bool:
    return seconds >= WORTH_SAYING * session.wall_seconds and seconds > 0


def _waits(session: Session, calls: int) -> Iterator[Finding]:
    for stage in dict.fromkeys(wait.stage for wait in session.syncs):
        own = [wait for wait in session.syncs if wait.stage == stage]
        cost = sum(wait.wall_seconds for wait in own) / calls
        waited = sum(wait.host_seconds for wait in own) / calls
        if _worth(session, cost):
            lines = [frame for wait in own if wait.wall_seconds for frame in wait.where[:1]]
            yield Finding(
                id="host-waits",
                stage=stage,
                seconds=cost,
                ceiling=ceiling(cost, session.wall_seconds),
                fix=WAIT_FIXES.get(stage),
                message=f"{_in(stage)} the host waits for the device "
                f"{_times(sum(wait.count for wait in own) / calls)} ({units.seconds(waited)}); "
                f"without these waits the device could idle {units.seconds(cost)} less",
                where=tuple(dict.fromkeys(lines)),
            )


def _in(stage: str) -> str:
    return "outside of any stage" if stage == OUTSIDE else f"in {stage}"


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:,.0f} times"


def _launches(session: Session, calls: int) -> Iterator[Finding]:
    for stage in session.on_device:
        slow = stage.idle_by_cause.get("host", 0.0) / calls
        if _worth(session, slow):
            lines = [gap.frame for gap in session.host_gaps if gap.stage == stage.stage]
            operations = units.count(round(stage.kernels / calls))
            yield Finding(
                id="launch-bound" if stage.bound == "launch-bound" else "launch-gaps",
                stage=stage.stage,
                seconds=slow,
                ceiling=ceiling(slow, session.wall_seconds),
                fix=LAUNCH_FIXES.get(stage.stage),
                message=f"{_in(stage.stage)} the device waits {units.seconds(slow)} for a host "
                f"that is too slow to launch {operations} operations",
                where=tuple(lines[:LINES]),
            )


def _lines(session: Session) -> Iterator[Finding]:
    for gap in session.host_gaps:
        if _worth(session, gap.seconds):
            what = "the device idles" if session.device else "the loop spends"
            line, _, function = gap.frame.partition(": ")
            yield Finding(
                id="host-line",
                stage=gap.stage,
                seconds=gap.seconds,
                ceiling=gap.ceiling,
                message=f"{_in(gap.stage)} {what} {units.seconds(gap.seconds)} while the host is "
                f"in {function or line}() ({units.share(gap.share)} of the call)",
                where=(gap.frame, *gap.where[:LINES]),
            )


def _allocator(session: Session, calls: int) -> Iterator[Finding]:
    for stage in session.on_device:
        stalled = stage.idle_by_cause.get("allocator", 0.0) / calls
        if _worth(session, stalled):
            yield Finding(
                id="allocator-stalls",
                stage=stage.stage,
                seconds=stalled,
                ceiling=ceiling(stalled, session.wall_seconds),
                message=f"{_in(stage.stage)} the device waits {units.seconds(stalled)} while the "
                "host asks the driver for memory or gives it back: warm up at the largest shape, "
                "do not call empty_cache() between calls, or set "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            )


def _latency(session: Session, calls: int) -> Iterator[Finding]:
    for stage in session.on_device:
        idle = stage.idle_by_cause.get("other", 0.0) / calls
        if _worth(session, idle):
            yield Finding(
                id="device-idle",
                stage=stage.stage,
                seconds=idle,
                ceiling=ceiling(idle, session.wall_seconds),
                message=f"{_in(stage.stage)} the device idles {units.seconds(idle)} although the "
                "next operation was queued or its launch was not recorded: launch latency of "
                f"{units.count(round(stage.kernels / calls))} operations, or one stream that "
                "waits for another",
            )


def _transfers(session: Session) -> Iterator[Finding]:
    for stage in dict.fromkeys(row.stage for row in session.transfers):
        own = [row for row in session.transfers if row.stage == stage]
        exposed = sum(row.exposed_seconds for row in own)
        if _worth(session, exposed):
            seconds, volume = sum(row.seconds for row in own), sum(row.bytes or 0 for row in own)
            size = f" of {units.size(volume)}" if volume else ""
            yield Finding(
                id="transfers",
                stage=stage,
                seconds=exposed,
                ceiling=ceiling(exposed, session.wall_seconds),
                message=f"{_in(stage)} copies{size} take {units.seconds(seconds)}, of which "
                f"{units.seconds(exposed)} are not hidden behind kernels: keep the weights on "
                "the device, or offload by groups with a stream of their own (use_stream=True)",
            )


def _communication(session: Session) -> Iterator[Finding]:
    for stage in dict.fromkeys(row.stage for row in session.communication):
        own = [row for row in session.communication if row.stage == stage]
        exposed = sum(row.exposed_seconds for row in own)
        if _worth(session, exposed):
            yield Finding(
                id="communication",
                stage=stage,
                seconds=exposed,
                ceiling=ceiling(exposed, session.wall_seconds),
                message=f"{_in(stage)} collectives take "
                f"{units.seconds(sum(row.seconds for row in own))}, of which "
                f"{units.seconds(exposed)} are not hidden behind kernels; read the files of all "
                "ranks together to see which rank the others wait for",
            )


def _devices(session: Session) -> Iterator[Finding]:
    if len(session.devices) < 2:
        return
    busy = sum(device.busy_seconds for device in session.devices)
    alone = sum(device.alone_seconds for device in session.devices)
    if alone > 0.5 * busy:
        # Were all of it side by side, as much as the fullest device has would remain.
        longest = max(device.busy_seconds for device in session.devices)
        saved = alone * (1 - longest / busy) if busy else 0.0
        yield Finding(
            id="devices-in-turns",
            stage="denoise" if session.row("denoise") else "call",
            seconds=saved,
            ceiling=ceiling(saved, session.wall_seconds),
            message=f"{len(session.devices)} devices work in turns: "
            f"{units.share(alone / busy)} of their busy time no other device has work",
        )


def _growth(stages: tuple[StageOnDevice, ...]) -> Iterator[Finding]:
    for stage in stages:
        grown = stage.memory_growth_bytes or 0
        if stage.stage == "denoise" and grown > GROWTH_WORTH_SAYING:
            yield Finding(
                id="memory-growth",
                stage=stage.stage,
                message=f"device memory grows by {units.size(grown)} over the denoising loop: "
                "something keeps what every step allocates",
            )
