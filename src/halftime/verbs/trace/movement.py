"""Time that devices spend moving data: copies and collectives; and how they share the work."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from halftime.records import Communication, TracedDevice, Transfer
from halftime.verbs.trace import vendors
from halftime.verbs.trace.device import Union, union
from halftime.verbs.trace.read import COPY, KERNEL, NONE, Ints, Mask, Names, Trace, distinct

NANO = 1e-9
UNKNOWN_DIRECTION = "other"


def copies(trace: Trace) -> Mask:
    """Which device operations are copies."""
    copied: Mask = (trace.device.kind == COPY) | trace.named(trace.device, vendors.COPY)
    return copied


def communicates(trace: Trace) -> Mask:
    """Which device operations are collectives."""
    return trace.named(trace.device, vendors.COMMUNICATION)


def bytes_of(trace: Trace, launched_by: Ints) -> Ints:
    """Bytes of each device operation; NONE where neither it nor its launching call says."""
    sizes = trace.device.bytes.copy()
    if len(trace.runtime):
        ask = (sizes == NONE) & (launched_by != NONE) & copies(trace)
        sizes[ask] = trace.runtime.bytes[launched_by[ask]]
    return sizes


def _exposed(trace: Trace, moving: Mask) -> Ints:
    """Of each moving operation, the nanoseconds in which no kernel ran on the same device."""
    device = trace.device
    exposed = device.duration.copy()
    for number in distinct(device.device[moving]):
        here = device.device == number
        work = union(device.where(here & ~moving & (device.kind == KERNEL)))
        own = here & moving
        exposed[own] -= work.within(device.start[own], device.end[own])
    return exposed


def transfers(trace: Trace, launched_by: Ints, stages: Names, calls: int) -> tuple[Transfer, ...]:
    """Copies by stage and direction, the longest first; `stages` has one for each operation."""
    moving = copies(trace)
    exposed, sizes = _exposed(trace, moving), bytes_of(trace, launched_by)
    names = {
        direction: trace.named(trace.device, pattern)
        for direction, pattern in vendors.DIRECTIONS.items()
    }
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at in np.flatnonzero(moving).tolist():
        direction = next((d for d, mask in names.items() if mask[at]), UNKNOWN_DIRECTION)
        groups[stages[at], direction].append(at)
    rows = [
        Transfer(
            stage=stage,
            direction=direction,
            count=len(own) / calls,
            seconds=float(trace.device.duration[own].sum()) * NANO / calls,
            exposed_seconds=float(exposed[own].sum()) * NANO / calls,
            bytes=int(sizes[own].sum() / calls) if (sizes[own] != NONE).all() else None,
        )
        for (stage, direction), own in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def communication(trace: Trace, stages: Names, calls: int) -> tuple[Communication, ...]:
    """Collectives by stage and name, the longest first."""
    moving = communicates(trace)
    exposed = _exposed(trace, moving)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at in np.flatnonzero(moving).tolist():
        groups[stages[at], trace.names[trace.device.name[at]]].append(at)
    rows = [
        Communication(
            stage=stage,
            name=name,
            count=len(own) / calls,
            seconds=float(trace.device.duration[own].sum()) * NANO / calls,
            exposed_seconds=float(exposed[own].sum()) * NANO / calls,
        )
        for (stage, name), own in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def devices(trace: Trace) -> tuple[TracedDevice, ...]:
    """The time line of each device, over the time in which any had work; () for a single one."""
    device = trace.device
    numbers = distinct(device.device)
    if len(numbers) < 2:
        return ()
    span = int(device.end.max() - device.start.min())
    busy = {number: union(device.where(device.device == number)) for number in numbers}
    return tuple(
        TracedDevice(
            device=number,
            name=trace.device_name(number) or "",
            busy_seconds=busy[number].busy * NANO,
            idle_seconds=(span - busy[number].busy) * NANO,
            operations=int((device.device == number).sum()),
            alone_seconds=_alone(trace, number, busy[number]) * NANO,
        )
        for number in numbers
    )


def _alone(trace: Trace, number: int, own: Union) -> int:
    elsewhere = union(trace.device.where(trace.device.device != number))
    return own.busy - int(elsewhere.within(own.start, own.end).sum())
