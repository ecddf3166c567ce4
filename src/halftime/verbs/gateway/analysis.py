"""From samples to records: pure functions of what the client and the mock wrote down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import median, quantile
from halftime.records.gateway import GRID, Added, Distribution, Percentiles, Split, Truth
from halftime.verbs.gateway.client import Sample
from halftime.verbs.gateway.mock import LogEntry

Pair = tuple[float, float]  # direct, through
_LEVELS = (0.5, 0.95, 0.99)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """p50, p95 and p99; None without values."""
    if not values:
        return None
    return Percentiles(
        p50=quantile(values, 0.5), p95=quantile(values, 0.95), p99=quantile(values, 0.99)
    )


def added(pairs: Sequence[Pair], *, resamples: int = 1000, seed: int = 0) -> Added | None:
    """Through minus direct at each quantile, in seconds, with 95 % bootstrap intervals.

    Pairs are resampled whole, so that what disturbed both arms cancels.
    """
    if not pairs:
        return None
    data = np.asarray(pairs, dtype=float)
    rng = np.random.default_rng(seed)
    resampled = np.array(
        [_differences(data[rng.integers(0, len(data), len(data))]) for _ in range(resamples)]
    )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    value = _differences(data)
    return Added(
        p50=float(value[0]),
        p95=float(value[1]),
        p99=float(value[2]),
        low=float(low[0]),
        high=float(high[0]),
        p95_low=float(low[1]),
        p95_high=float(high[1]),
        p99_low=float(low[2]),
        p99_high=float(high[2]),
    )


def _differences(data: NDArray[np.float64]) -> NDArray[np.float64]:
    levels = np.quantile(data, _LEVELS, axis=0)
    return np.asarray(levels[:, 1] - levels[:, 0])


def distribution(values: Sequence[float]) -> Distribution | None:
    """The quantiles at GRID, for drawing; None without values."""
    if not values:
        return None
    quantiles = np.quantile(np.asarray(values), GRID)
    return Distribution(count=len(values), values=tuple(map(float, quantiles)))


def split(samples: Sequence[Sample], connect: float | None, tls: float | None) -> Split | None:
    """Medians of wait and transfer, with what fresh connections took."""
    if not samples:
        return None
    return Split(
        connect=connect,
        tls=tls,
        wait=median([s.first_byte - s.sent for s in samples]),
        transfer=median([s.end - s.first_byte for s in samples]),
    )


def gaps(samples: Sequence[Sample]) -> Percentiles | None:
    """Between the chunks of streamed answers."""
    return percentiles(
        [b - a for s in samples for a, b in zip(s.chunks, s.chunks[1:], strict=False)]
    )


def error_kinds(samples: Sequence[Sample]) -> dict[str, int]:
    """'through: 429' -> count."""
    return dict(Counter(f"{s.arm}: {s.error or s.status}" for s in samples if not s.ok))


SATURATED_SHARE = 0.95  # of the offered rate
_COUNTED = 0.98  # of the completions: the few slowest belong to the tail, not to the rate


def saturated(block: Sequence[Sample], unloaded: float) -> bool:
    """Whether more was offered than completed, so that a queue is left when sending ends.

    `unloaded` is the latency of one request at a time, in seconds. The rule looks at completions
    only, not at how waiting rises, so it holds both for a queue served in order and for a server
    that works on all requests at once.
    """
    ends = _ends(block)
    if len(ends) < 8:
        return any(s.error == "timeout" for s in block)
    sending = max(s.intended for s in block) - min(s.intended for s in block)
    after_sending = ends[-1] - max(s.intended for s in block) - unloaded
    offered = (len(block) - 1) / sending if sending > 0 else 0.0
    if after_sending <= max(0.01, unloaded):
        return False
    return completed_rate(block, unloaded) < SATURATED_SHARE * offered


def _ends(block: Sequence[Sample]) -> list[float]:
    """Completions in order, time-outs included; refusals and other errors are not work done."""
    ends = sorted(s.end for s in block if s.ok or s.error == "timeout")
    return ends[: max(1, int(len(ends) * _COUNTED))] if ends else []


def completed_rate(block: Sequence[Sample], unloaded: float = 0.0) -> float:
    """Completions a second, counted from when the first could have ended."""
    ends = _ends(block)
    if len(ends) < 2:
        return 0.0
    seconds = ends[-1] - min(s.intended for s in block) - unloaded
    return (len(ends) - 1) / seconds if seconds > 0 else 0.0


def truth(pairs: Sequence[tuple[Sample, Sample]], log: Mapping[str, LogEntry]) -> Truth | None:
    """Exact overheads, request by request; None where the mock's log has none of these pairs."""
    logged = [(d, t) for d, t in pairs if d.ok and t.ok and d.id in log and t.id in log]
    if not logged:
        return None
    direct, through = (_paths([pair[arm] for pair in logged], log) for arm in (0, 1))
    floor, overhead = percentiles(direct["whole"]), percentiles(through["whole"])
    difference = added(list(zip(direct["whole"], through["whole"], strict=True)))
    assert floor is not None
    assert overhead is not None
    assert difference is not None
    return Truth(
        matched=2 * len(logged),
        floor=floor,
        overhead=overhead,
        added=difference,
        **{f"{path}_path": median(through[path]) - median(direct[path]) for path in _PATHS},
        first_chunk_low=quantile(through["first_chunk"], 0.05) - median(direct["first_chunk"]),
        connections=len({log[t.id].connection for _, t in logged}),
        requests=len(logged),
    )


_PATHS = ("request", "response", "first_chunk", "last_chunk")


def _paths(samples: Sequence[Sample], log: Mapping[str, LogEntry]) -> dict[str, list[float]]:
    entries = [(s, log[s.id]) for s in samples]
    return {
        # From `sent`: waiting for the generator or for a connection is not the gateway's time.
        "request": [e.received - s.sent for s, e in entries],
        "response": [s.end - e.sent for s, e in entries],
        "first_chunk": [s.first_chunk - e.first for s, e in entries],
        "last_chunk": [s.end - e.sent for s, e in entries],
        "whole": [(s.end - s.sent) - (e.sent - e.received) for s, e in entries],
    }
