"""One load level as a record, and what all of them say about rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from halftime.base.stats import median
from halftime.records.gateway import Load, Mode
from halftime.verbs.gateway import analysis, process
from halftime.verbs.gateway.client import Sample
from halftime.verbs.gateway.failures import fails
from halftime.verbs.gateway.mock import LogEntry


def summarised(
    mode: Mode,
    pairs: Sequence[Sequence[Sample]],
    arms: Sequence[list[Sample]],
    blocks: list[list[list[Sample]]] | None,
    log: dict[str, LogEntry],
    meter: process.Meter,
    fresh: dict[str, tuple[float, float]],
    rate: float | None = None,
    unloaded: Sequence[float] = (0.0, 0.0),
) -> Load:
    """One load level as a record."""
    good = [[s for s in arm if s.ok] for arm in arms]
    both = len(arms) > 1
    complete = [(p[0], p[1]) for p in pairs if both and p[0].ok and p[1].ok]
    ttft = [analysis.percentiles([s.ttft for s in arm]) for arm in good]
    everything = [s for arm in arms for s in arm]
    reported = [s.reported for s in good[-1] if both and s.reported is not None]
    first, last = ([block[i] for block in blocks or ()] for i in (0, -1))
    load = Load(
        mode=mode,
        rate=rate,
        direct=analysis.percentiles([s.latency for s in good[0]]),
        through=analysis.percentiles([s.latency for s in good[1]]) if both else None,
        added=analysis.added([(d.latency, t.latency) for d, t in complete]),
        paired=median([t.latency - d.latency for d, t in complete]) if complete else None,
        ttft_added=ttft[1].p50 - ttft[0].p50 if both and ttft[0] and ttft[1] else None,
        ttft_direct=ttft[0],
        ttft_through=ttft[1] if both else None,
        gap_direct=analysis.gaps(good[0]),
        gap_through=analysis.gaps(good[1]) if both else None,
        split_direct=analysis.split(good[0], *_opened(fresh, "direct")),
        split_through=analysis.split(good[1], *_opened(fresh, "through")) if both else None,
        requests=len(everything),
        through_requests=len(arms[1]) if both else 0,
        errors=sum(not s.ok for s in everything),
        error_kinds=analysis.error_kinds(everything),
        saturated=_most(rate, last, unloaded[-1]),
        direct_saturated=_most(rate, first, unloaded[0]),
        throughput=median(
            [analysis.completed_rate(block, unloaded[-1] if rate else 0.0) for block in last]
        )
        if last
        else None,
        send_lag=analysis.percentiles([s.begun - s.intended for s in everything]) if rate else None,
        header_reported=median(reported) if reported else None,
        truth=analysis.truth(complete, log) if log else None,
        cpu_per_request=meter.gateway_seconds / len(arms[-1])
        if both and meter.knows_gateway and arms[-1]
        else None,
        background_cores=meter.background_cores,
        curve_direct=analysis.distribution([s.latency for s in good[0]]),
        curve_through=analysis.distribution([s.latency for s in good[1]]) if both else None,
    )
    return msgspec.structs.replace(load, failing=fails(load, both))


def _opened(fresh: dict[str, tuple[float, float]], arm: str) -> tuple[float | None, float | None]:
    connect, tls = fresh.get(arm, (None, None))
    return connect, tls or None


def _most(rate: float | None, blocks: Sequence[list[Sample]], unloaded: float) -> bool:
    """Saturated in more than half of the blocks: a single stall is not a verdict."""
    if rate is None or not blocks:
        return False
    return sum(analysis.saturated(block, unloaded) for block in blocks) * 2 > len(blocks)


def beyond_capacity(loads: Sequence[Load]) -> list[Load]:
    """Mark rates above the most that was ever completed as saturated, where bursts hid it."""
    if not any(item.saturated for item in loads):
        return list(loads)
    most = max(item.throughput or 0.0 for item in loads)
    return [
        msgspec.structs.replace(item, saturated=True)
        if item.rate and item.rate > 1.02 * most
        else item
        for item in loads
    ]


def limits(loads: Sequence[Load]) -> tuple[float | None, float | None]:
    """The highest rate that was held, and what a saturated endpoint completed a second."""
    held = [item.rate for item in loads if item.rate and not item.saturated and not item.failing]
    full = [item for item in loads if item.saturated and item.throughput]
    broken = [
        item.rate
        for item in loads
        if item.rate and (item.failing or (item.saturated and item.throughput))
    ]
    below = [rate for rate in held if rate < min(broken, default=math.inf)]
    capacity = median([item.throughput or 0.0 for item in full]) if full else None
    return max(below, default=None), capacity
