"""From samples to records: pure functions of what the client and the mock wrote down."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halftime.base.stats import median, quantile
from halftime.records.gateway import (
    GRID,
    Added,
    Distribution,
    Goodput,
    JobTimes,
    Percentiles,
    Split,
    StreamTimes,
    Trend,
    Truth,
)
from halftime.verbs.gateway.compare import Log
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.mock import LogEntry

Pair = tuple[float, float]  # direct, through
_LEVELS = (0.5, 0.95, 0.99)
_VALUES_AT_ONCE = 500_000  # of resamples in memory


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
    count, resampled = len(data), list[NDArray[np.float64]]()
    at_once = max(1, _VALUES_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        resampled.append(_differences(data[rng.integers(0, count, (rows, count))]))
    low, high = np.quantile(np.concatenate(resampled), [0.025, 0.975], axis=0)
    value = _differences(data[np.newaxis])[0]
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
    """Of arrays of pairs, shape (resamples, pairs, 2), to (resamples, levels)."""
    levels = np.quantile(data, _LEVELS, axis=1)
    return np.asarray(levels[..., 1] - levels[..., 0]).T


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
_FEWEST = 8  # requests of a block, to judge it by
_RISING = 0.005  # the chance at which waiting rises so by itself
_INHERITED = 0.001  # and at which each request's waiting is so much like its predecessor's
_LONG_ENOUGH = 3.0  # times a request's own latency, for a block that such likeness is read from


def saturated(block: Sequence[Sample], unloaded: float) -> bool:
    """Whether more was offered than completed, so that a queue is left when sending ends.

    `unloaded` is the latency of one request at a time, in seconds. Few completions alone show
    nothing where requests take long or differ: the last ones then end late in any case. There must
    be a queue as well, which each request inherits from the one before it: waiting rises with the
    order of sending, or, where a server works on all requests at once, it is like its neighbour's.
    Latencies of a healthy upstream are independent of one another, however much they vary.
    """
    if len(_ends(block)) < _FEWEST or _timed_out(block):
        return _timed_out(block)
    sending = _sending(block)
    after_sending = _ends(block)[-1] - max(s.intended for s in block) - unloaded
    offered = (len(block) - 1) / sending if sending > 0 else 0.0
    if after_sending <= max(0.01, unloaded):
        return False
    if completed_rate(block, unloaded) >= SATURATED_SHARE * offered:
        return False
    return queues(block, unloaded)


def queues(block: Sequence[Sample], unloaded: float) -> bool:
    """Whether waiting is inherited."""
    waiting = [s.latency for s in sorted(block, key=lambda s: s.intended) if _is_work(s)]
    if rising_chance(waiting) < _RISING:
        return True
    lasts = _sending(block) >= _LONG_ENOUGH * unloaded
    return lasts and inherited_chance(waiting) < _INHERITED


def too_short(block: Sequence[Sample], unloaded: float) -> bool:
    """A block within which hardly a request ends: only a queue that grows fast shows in it."""
    return bool(block) and _sending(block) < _LONG_ENOUGH * unloaded


def _sending(block: Sequence[Sample]) -> float:
    moments = [s.intended for s in block]
    return max(moments) - min(moments)


def _timed_out(block: Sequence[Sample]) -> bool:
    """Half of it, or more: nothing is told from the order of equal waits."""
    return 2 * sum(s.error == "timeout" for s in block) >= max(1, len(block))


def rising_chance(values: Sequence[float]) -> float:
    """The chance that independent values rise so with their order: Spearman's rank correlation,
    one-sided, by its t approximation (Zar 1972); 1 for fewer than five."""
    count = len(values)
    if count < 5:
        return 1.0
    correlation = float(np.corrcoef(np.arange(count), _ranks(values))[0, 1])
    if not math.isfinite(correlation):  # all alike
        return 1.0
    return _upper_tail(correlation * math.sqrt(count - 1), count)


def inherited_chance(values: Sequence[float]) -> float:
    """The chance that independent values are so like their predecessors: von Neumann's ratio on
    ranks (Bartels 1982), one-sided, by its normal approximation; 1 for fewer than ten."""
    count = len(values)
    if count < 10:
        return 1.0
    ranks = _ranks(values)
    spread = float(np.sum((ranks - ranks.mean()) ** 2))
    if spread == 0:
        return 1.0
    ratio = float(np.sum(np.diff(ranks) ** 2)) / spread
    deviation = math.sqrt(4 * (count - 2) * (5 * count * count - 2 * count - 9))
    deviation /= math.sqrt(5 * count * (count + 1) * (count - 1) ** 2)
    return _upper_tail((2 - ratio) / deviation, count)


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """From 0; equal values share the mean of their ranks."""
    data = np.asarray(values, dtype=float)
    _, inverse, counts = np.unique(data, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse], dtype=float)


def _upper_tail(z: float, count: int) -> float:
    """Of a normal distribution; for few values a little more, as their ranks are discrete."""
    return min(1.0, 0.5 * math.erfc(z / math.sqrt(2)) * (1 + 2 / count))


def _ends(block: Sequence[Sample]) -> list[float]:
    """Completions in order, time-outs included; refusals and other errors are not work done."""
    ends = sorted(s.end for s in block if _is_work(s))
    return ends[: max(1, int(len(ends) * _COUNTED))] if ends else []


def _is_work(sample: Sample) -> bool:
    return sample.ok or sample.error == "timeout"


def completed_rate(block: Sequence[Sample], unloaded: float = 0.0) -> float:
    """Completions a second, counted from when the first could have ended."""
    ends = _ends(block)
    if len(ends) < 2:
        return 0.0
    seconds = ends[-1] - min(s.intended for s in block) - unloaded
    return (len(ends) - 1) / seconds if seconds > 0 else 0.0


def truth(pairs: Sequence[tuple[Sample, Sample]], log: Log) -> Truth | None:
    """Exact overheads, request by request; None where the mock's log has none of these pairs, or
    where they are jobs, whose time passes between questions."""
    logged = [
        (d, t)
        for d, t in pairs
        if d.ok and t.ok and d.id in log and t.id in log and not d.submitted
    ]
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
        **{
            f"{path}_low": quantile(through[path], 0.05) - median(direct[path])
            for path in ("request", "response", "first_chunk")
        },
        connections=len({log[t.id][-1].connection for _, t in logged}),
        requests=len(logged),
    )


_PATHS = ("request", "response", "first_chunk", "last_chunk")


def _paths(samples: Sequence[Sample], log: Log) -> dict[str, list[float]]:
    calls = [(s, log[s.id][0], _answering(log[s.id], s.end)) for s in samples]
    return {
        # From `sent`: waiting for a connection to the gateway is on neither path.
        "request": [first.received - s.sent for s, first, _ in calls],
        "response": [s.end - last.sent for s, _, last in calls],
        "first_chunk": [s.first_chunk - last.first for s, _, last in calls],
        "last_chunk": [s.end - last.sent for s, _, last in calls],
        # From `begun`: a gateway that ends each connection makes its clients open new ones.
        "whole": [(s.end - s.begun) - (last.sent - last.received) for s, _, last in calls],
    }


def _answering(calls: Sequence[LogEntry], end: float) -> LogEntry:
    """Of the calls that a gateway made for one request, the last that was answered in time."""
    return next((call for call in reversed(calls) if call.sent <= end), calls[-1])


def overheads(pairs: Sequence[tuple[Sample, Sample]], log: Log) -> list[float]:
    """What each request paid, in order: exactly by the log, else its latency less its pair's."""
    if log and not any(d.submitted for d, _ in pairs):
        return _paths([t for _, t in pairs if t.id in log], log)["whole"]
    return [t.latency - d.latency for d, t in pairs]


def trend(values: Sequence[float]) -> Trend | None:
    """From the first quarter to the last; None for fewer than 20."""
    quarter = len(values) // 4
    if quarter < 5:
        return None
    return Trend(
        first=median(values[:quarter]),
        last=median(values[-quarter:]),
        chance=rising_chance(values),
    )


def stream_times(samples: Sequence[Sample]) -> StreamTimes | None:
    """Times between tokens; None where no stream has two."""
    streams = [
        s for s in samples if s.reply.streamed and s.reply.tokens > 1 and s.end > s.first_chunk
    ]
    if not streams:
        return None
    gaps_between = [(s.end - s.first_chunk) / (s.reply.tokens - 1) for s in streams]
    longest = [max(map(_difference, pairwise(s.chunks)), default=0.0) for s in streams]
    token_gap, longest_gap = percentiles(gaps_between), percentiles(longest)
    assert token_gap is not None
    assert longest_gap is not None
    return StreamTimes(
        token_gap=token_gap,
        longest_gap=longest_gap,
        tokens_per_second=median([s.reply.tokens / (s.end - s.sent) for s in streams]),
        streams=len(streams),
    )


def _difference(pair: tuple[float, float]) -> float:
    return pair[1] - pair[0]


def job_times(samples: Sequence[Sample]) -> JobTimes | None:
    """Of jobs that were followed; None where none was."""
    jobs = [s for s in samples if s.submitted]
    if not jobs:
        return None
    return JobTimes(
        submit=median([s.submitted - s.begun for s in jobs]),
        queue=median([s.started - s.submitted for s in jobs]),
        run=median([s.end - s.started for s in jobs]),
    )


@dataclass(frozen=True)
class Limits:
    """Within which an answer is a good one; None: any. Seconds."""

    first: float | None = None  # to the first bytes of the body
    gap: float | None = None  # between tokens
    whole: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.first, self.gap, self.whole))

    def keeps(self, sample: Sample) -> bool:
        """Whether the sample is answered within them."""
        tokens = sample.reply.tokens
        gap = (sample.end - sample.first_chunk) / (tokens - 1) if tokens > 1 else 0.0
        values = ((sample.ttft, self.first), (gap, self.gap), (sample.latency, self.whole))
        return sample.ok and all(limit is None or value <= limit for value, limit in values)


def goodput(arms: Sequence[Sequence[Sample]], within: Limits, seconds: float) -> Goodput | None:
    """Shares and rates of the answers within the limits; None where there are none."""
    if not within:
        return None
    counts = [sum(map(within.keeps, arm)) for arm in arms]
    shares = [count / len(arm) if arm else 0.0 for count, arm in zip(counts, arms, strict=True)]
    rates = [count / seconds if seconds else None for count in counts]
    both = len(arms) > 1
    return Goodput(
        direct=shares[0],
        through=shares[1] if both else None,
        direct_rate=rates[0],
        through_rate=rates[1] if both else None,
    )
