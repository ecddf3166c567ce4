"""One load level as a record, and what all of them say about rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from halftime.base.stats import median
from halftime.records.gateway import Load, Mode
from halftime.verbs.gateway import analysis, process
from halftime.verbs.gateway.compare import (
    Log,
    answer_facts,
    check_answers,
    upstream_log,
    wrong_answers,
)
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.failures import fails


@dataclass(frozen=True)
class Loaded:
    """What one load gave: its samples arm by arm, as pairs and in blocks, and what was seen
    beside them."""

    mode: Mode
    pairs: Sequence[Sequence[Sample]]
    arms: Sequence[list[Sample]]
    blocks: list[list[list[Sample]]] | None
    log: Log | None  # the mock's; None of another upstream
    meter: process.Meter
    fresh: Mapping[str, tuple[float, float]]
    rate: float | None = None
    concurrency: int | None = None
    unloaded: Sequence[float] = (0.0, 0.0)
    within: analysis.Limits = field(default_factory=analysis.Limits)
    cut: str = ""


def summarised(loaded: Loaded) -> Load:
    """One load level as a record. Answers that are not the upstream's own count as failed."""
    both = len(loaded.arms) > 1
    if both:
        check_answers(loaded.arms[0], loaded.arms[1], loaded.log)
    load = _common(loaded)
    load = msgspec.structs.replace(load, **_by_arm(loaded, 0, "direct"), **_blocks(loaded))
    if both:
        load = msgspec.structs.replace(
            load, **_by_arm(loaded, 1, "through"), **_compared(loaded, load)
        )
    return msgspec.structs.replace(load, failing=fails(load, both))


def _common(loaded: Loaded) -> Load:
    everything = [s for arm in loaded.arms for s in arm]
    rate, seconds = loaded.rate, loaded.meter.wall_seconds
    lags = [s.begun - s.intended for s in everything]
    return Load(
        mode=loaded.mode,
        rate=rate,
        concurrency=loaded.concurrency,
        direct=None,
        through=None,
        added=None,
        requests=len(everything),
        errors=sum(not s.ok for s in everything),
        error_kinds=analysis.error_kinds(everything),
        send_lag=analysis.percentiles(lags) if rate else None,
        background_cores=loaded.meter.background_cores,
        goodput=analysis.goodput(loaded.arms, loaded.within, seconds / len(loaded.arms)),
        cut=loaded.cut,
    )


def _by_arm(loaded: Loaded, index: int, name: str) -> dict[str, object]:
    """The fields of one arm, by the names that they have in a Load."""
    good = [s for s in loaded.arms[index] if s.ok]
    values = {
        "": analysis.percentiles([s.latency for s in good]),
        "ttft": analysis.percentiles([s.ttft for s in good]),
        "gap": analysis.gaps(good),
        "split": analysis.split(good, *_opened(loaded.fresh, name)),
        "curve": analysis.distribution([s.latency for s in good]),
        "stream": analysis.stream_times(good),
        "jobs": analysis.job_times(good),
    }
    return {f"{prefix}_{name}".lstrip("_"): value for prefix, value in values.items()}


def _blocks(loaded: Loaded) -> dict[str, object]:
    """What blocks of a load say: saturation, and how much was completed a second."""
    rate, unloaded = loaded.rate, loaded.unloaded
    first, last = ([block[i] for block in loaded.blocks or ()] for i in (0, -1))
    rates = [analysis.completed_rate(block, unloaded[-1] if rate else 0.0) for block in last]
    saturated = _most(rate, last, unloaded[-1])
    short = any(analysis.too_short(block, unloaded[-1]) for block in last)
    return {
        "saturated": saturated,
        "direct_saturated": len(loaded.arms) > 1 and _most(rate, first, unloaded[0]),
        "throughput": median(rates) if rates else None,
        "unclear": bool(rate) and not saturated and short,
    }


def _compared(loaded: Loaded, load: Load) -> dict[str, object]:
    """What the two arms say together."""
    direct, through = loaded.arms
    complete = [(p[0], p[1]) for p in loaded.pairs if p[0].ok and p[1].ok]
    log, meter = loaded.log, loaded.meter
    reported = [s.reported for s in through if s.ok and s.reported is not None]
    sequential = loaded.mode == "sequential"
    return {
        "added": analysis.added([(d.latency, t.latency) for d, t in complete]),
        "paired": median([t.latency - d.latency for d, t in complete]) if complete else None,
        "ttft_added": _first_bytes_later(complete),
        "through_requests": len(through),
        "header_reported": median(reported) if reported else None,
        "truth": analysis.truth(complete, log) if log else None,
        "upstream": upstream_log(direct, through, log) if log is not None else None,
        "answers": answer_facts(direct, through),
        "wrong": wrong_answers(direct, through),
        "trend": analysis.trend(analysis.overheads(complete, log or {})) if sequential else None,
        "cpu_per_request": meter.gateway_seconds / len(through)
        if meter.knows_gateway and through
        else None,
    }


def _first_bytes_later(pairs: Sequence[tuple[Sample, Sample]]) -> float | None:
    """How much later the first bytes of the body come, at the median."""
    if not pairs:
        return None
    return median([t.ttft for _, t in pairs]) - median([d.ttft for d, _ in pairs])


def _opened(
    fresh: Mapping[str, tuple[float, float]], arm: str
) -> tuple[float | None, float | None]:
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
    held = [
        item.rate
        for item in loads
        if item.rate and not (item.saturated or item.failing or item.unclear or item.cut)
    ]
    full = [item for item in loads if item.saturated and item.throughput]
    broken = [
        item.rate
        for item in loads
        if item.rate and (item.failing or (item.saturated and item.throughput))
    ]
    below = [rate for rate in held if rate < min(broken, default=math.inf)]
    capacity = median([item.throughput or 0.0 for item in full]) if full else None
    return max(below, default=None), capacity
