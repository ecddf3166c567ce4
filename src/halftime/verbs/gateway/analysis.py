"""From samples to records: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import median, quantile
from halftime.records.gateway import GRID, Added, Distribution, Percentiles, Split, Truth
from halftime.verbs.gateway.extra import need

if TYPE_CHECKING:
    from halftime.verbs.gateway.client import Sample
    from halftime.verbs.gateway.mock import Entry

Pair = tuple[float, float]  # direct, through
_LEVELS = (0.5, 0.95, 0.99)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """None where there is nothing."""
    if not values:
        return None
    return Percentiles(
        p50=quantile(values, 0.5), p95=quantile(values, 0.95), p99=quantile(values, 0.99)
    )


def added(pairs: Sequence[Pair], *, resamples: int = 1000, seed: int = 0) -> Added | None:
    """Through less direct at each quantile; pairs are resampled whole, so what hit both arms
    cancels."""
    if not pairs:
        return None
    data = np.asarray(pairs, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [_differences(data[rng.integers(0, len(data), len(data))]) for _ in range(resamples)]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
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
    found = np.quantile(data, _LEVELS, axis=0)
    return np.asarray(found[:, 1] - found[:, 0])


def distribution(values: Sequence[float]) -> Distribution | None:
    """Quantiles for drawing, and the HdrHistogram (1 µs to 10 min, three digits) for merging."""
    if not values:
        return None
    histogram = need("hdrh.histogram").HdrHistogram(1, 600_000_000, 3)
    for value in values:
        histogram.record_value(max(1, int(value * 1e6)))
    drawn = np.quantile(np.asarray(values), GRID)
    return Distribution(
        count=len(values), values=tuple(map(float, drawn)), hdr=histogram.encode().decode()
    )


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
_LAST = 0.98  # of the completions: the few slowest are the tail's business, not the rate's


def saturated(block: Sequence[Sample], unloaded: float) -> bool:
    """More was offered than is completed: when sending ends, a queue is left.

    `unloaded` is the latency of one request at a time, in seconds. The rule looks at completions
    only, not at how waiting rises, and so holds for a queue in order and for a server that works on
    all requests at once.
    """
    ends = _ends(block)
    if len(ends) < 8:
        return any(s.error == "timeout" for s in block)
    sending = max(s.intended for s in block) - min(s.intended for s in block)
    left = ends[-1] - max(s.intended for s in block) - unloaded
    offered = (len(block) - 1) / sending if sending > 0 else 0.0
    return (
        left > max(0.01, unloaded) and completed_rate(block, unloaded) < SATURATED_SHARE * offered
    )


def _ends(block: Sequence[Sample]) -> list[float]:
    """Completions in order, a time-out among them; refusals and other errors are no work done."""
    ends = sorted(s.end for s in block if s.ok or s.error == "timeout")
    return ends[: max(1, int(len(ends) * _LAST))] if ends else []


def completed_rate(block: Sequence[Sample], unloaded: float = 0.0) -> float:
    """Completions a second, from when the first could have been done."""
    ends = _ends(block)
    taken = ends[-1] - min(s.intended for s in block) - unloaded if ends else 0.0
    return (len(ends) - 1) / taken if len(ends) > 1 and taken > 0 else 0.0


def truth(pairs: Sequence[tuple[Sample, Sample]], log: Mapping[str, Entry]) -> Truth | None:
    """Exact overheads from the mock's log, per request; None where it does not hold these
    requests."""
    known = [(d, t) for d, t in pairs if d.ok and t.ok and d.id in log and t.id in log]
    if not known:
        return None
    sides = {
        arm: _paths([pair[i] for pair in known], log) for i, arm in enumerate(("direct", "through"))
    }
    direct, through = sides["direct"], sides["through"]
    floor, overhead = percentiles(direct["whole"]), percentiles(through["whole"])
    difference = added(list(zip(direct["whole"], through["whole"], strict=True)))
    assert floor is not None
    assert overhead is not None
    assert difference is not None
    return Truth(
        matched=2 * len(known),
        floor=floor,
        overhead=overhead,
        added=difference,
        **{f"{path}_path": median(through[path]) - median(direct[path]) for path in _PATHS},
        first_chunk_low=quantile(through["first_chunk"], 0.05) - median(direct["first_chunk"]),
        connections=len({log[t.id].connection for _, t in known}),
        requests=len(known),
    )


_PATHS = ("request", "response", "first_chunk", "last_chunk")


def _paths(samples: Sequence[Sample], log: Mapping[str, Entry]) -> dict[str, list[float]]:
    entries = [(s, log[s.id]) for s in samples]
    return {
        # From `sent`, so that waiting for the generator or for a connection is in no path of the
        # gateway's.
        "request": [e.received - s.sent for s, e in entries],
        "response": [s.end - e.sent for s, e in entries],
        "first_chunk": [s.first_chunk - e.first for s, e in entries],
        "last_chunk": [s.end - e.sent for s, e in entries],
        "whole": [(s.end - s.sent) - (e.sent - e.received) for s, e in entries],
    }
