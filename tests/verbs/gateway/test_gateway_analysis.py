"""The statistics on synthetic samples: quantiles, saturation, the log's truth, limits."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.records.gateway import GRID, Distribution, Load, Percentiles
from halftime.verbs.gateway import analysis
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.mock import LogEntry
from halftime.verbs.gateway.summary import beyond_capacity, limits


def sample(
    intended: float, latency: float, *, arm: str = "through", number: str = "", **fields: object
) -> Sample:
    middle = intended + latency / 2
    result = Sample(number, arm, intended, intended, intended, middle, middle)
    result.end, result.status = intended + latency, 200
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def queue(rate: float, capacity: float, seconds: float, seed: int = 0) -> list[Sample]:
    """A single server with fixed service time at a constant rate, with some noise.

    Lindley's recursion.
    """
    rng, free, samples = random.Random(seed), 0.0, []
    for index in range(int(rate * seconds)):
        intended = index / rate
        free = max(free, intended) + 1 / capacity
        samples.append(sample(intended, free - intended + 0.02 + rng.expovariate(1000)))
    return samples


def shared(rate: float, capacity: float, seconds: float) -> list[Sample]:
    """A server that works on all requests at once and finishes them together.

    So does an event loop that is hogged.
    """
    count = int(rate * seconds)
    end = max(seconds, count / capacity) + 0.02
    return [sample(i / rate, max(0.02, end + 1e-3 * i / count - i / rate)) for i in range(count)]


shifts = st.floats(0, 0.1)


@given(st.lists(st.floats(0.001, 1), min_size=5, max_size=50), shifts)
def test_a_constant_shift_is_recovered_at_every_quantile(values: list[float], shift: float) -> None:
    added = analysis.added([(value, value + shift) for value in values], resamples=20)
    for name in ("p50", "p95", "p99", "low", "high", "p95_low", "p99_high"):
        assert getattr(added, name) == pytest.approx(shift, abs=1e-9)


def test_the_interval_covers_the_truth_in_most_repetitions() -> None:
    covered = 0
    for seed in range(60):
        rng = random.Random(seed)
        pairs = [(0.02 + rng.gauss(0, 1e-3), 0.025 + rng.gauss(0, 1e-3)) for _ in range(80)]
        added = analysis.added(pairs, resamples=200, seed=seed)
        covered += added.low <= 0.005 <= added.high
    assert covered >= 52  # 95 % of 60 is 57; below 52 has probability < 2 %


def test_no_pairs_no_number() -> None:
    assert analysis.added([]) is None
    assert analysis.percentiles([]) is None
    assert analysis.distribution([]) is None


@pytest.mark.parametrize(
    ("rate", "capacity", "expected"),
    [(50, 62, False), (60, 62, False), (70, 62, True), (200, 62, True)],
)
def test_saturation_is_offered_beyond_capacity(
    rate: float, capacity: float, expected: bool
) -> None:
    block = queue(rate, capacity, 3)
    assert analysis.saturated(block, 0.036) is expected
    if expected:
        assert analysis.completed_rate(block, 0.036) == pytest.approx(capacity, rel=0.05)


def test_a_hogged_event_loop_is_saturated_though_waiting_falls() -> None:
    block = shared(100, 47, 1)
    assert block[0].latency > block[-1].latency
    assert analysis.saturated(block, 0.04)
    assert analysis.completed_rate(block, 0.04) == pytest.approx(47, rel=0.06)


@given(st.floats(5, 400), st.floats(0.001, 0.2))
def test_constant_waiting_is_never_saturation(rate: float, latency: float) -> None:
    assert not analysis.saturated(
        [sample(i / rate, latency) for i in range(int(rate * 2))], latency
    )


def test_one_stall_is_not_saturation() -> None:
    block = [sample(i / 100, 0.02 + (0.3 if 140 <= i < 170 else 0)) for i in range(300)]
    assert not analysis.saturated(block, 0.02)


def test_timeouts_of_most_requests_are_saturation_and_refusals_are_not() -> None:
    assert analysis.saturated([sample(i / 10, 30, error="timeout") for i in range(20)], 0.02)
    assert not analysis.saturated([sample(i / 10, 0.01, status=429) for i in range(20)], 0.02)


def test_the_mocks_log_gives_each_path() -> None:
    pairs, log = [], {}
    for index in range(20):
        d = sample(index, 0.0202, arm="direct", number=f"{2 * index:08x}")
        t = sample(index + 0.5, 0.0262, number=f"{2 * index + 1:08x}")
        d.first_chunk, t.first_chunk = d.end, t.end
        log[d.id] = [LogEntry(d.id, 1, d.sent + 0.0001, d.sent + 0.0201, d.sent + 0.0201, 200)]
        log[t.id] = [
            LogEntry(t.id, 2 + index, t.sent + 0.0041, t.sent + 0.0241, t.sent + 0.0241, 200)
        ]
        pairs.append((d, t))
    truth = analysis.truth(pairs, log)
    assert truth.floor.p50 == pytest.approx(0.0002)
    assert truth.added.p50 == pytest.approx(0.006)
    assert truth.request_path == pytest.approx(0.004)
    assert truth.response_path == pytest.approx(0.002)
    assert (truth.connections, truth.requests, truth.matched) == (20, 20, 40)
    assert analysis.truth(pairs, {}) is None


def test_error_kinds_name_arm_and_cause() -> None:
    kinds = analysis.error_kinds(
        [sample(0, 1, status=429), sample(0, 1), sample(0, 1, error="timeout")]
    )
    assert kinds == {"through: 429": 1, "through: timeout": 1}


def test_a_distribution_keeps_both_ends_and_its_quantiles() -> None:
    curve = analysis.distribution([0.001 * i for i in range(1, 101)])
    assert curve.count == 100
    assert curve.values[0] == pytest.approx(0.001)
    assert curve.values[-1] == pytest.approx(0.1)
    assert curve.values[GRID.index(0.5)] == pytest.approx(0.0505)
    assert len(curve.values) == len(GRID)


def test_a_file_with_a_histogram_still_loads() -> None:
    older = b'{"count": 2, "values": [0.1, 0.2], "hdr": "HISTFAAAAC"}'
    assert msgspec.json.decode(older, type=Distribution).values == (0.1, 0.2)


def level(rate: float, saturated: bool, throughput: float) -> Load:
    p = Percentiles(p50=0.02, p95=0.02, p99=0.02)
    return Load(
        mode="poisson",
        rate=rate,
        direct=p,
        through=p,
        added=None,
        requests=10,
        saturated=saturated,
        throughput=throughput,
    )


def test_limits_are_the_highest_held_below_the_lowest_broken() -> None:
    loads = [level(20, False, 20), level(100, True, 62), level(80, False, 60)]
    assert limits(loads) == (80, 62)
    marked = beyond_capacity(loads)
    assert [load.saturated for load in marked] == [False, True, True]
    assert limits(marked)[0] == 20
    assert limits([level(20, False, 20)]) == (20, None)
    completed = [level(80, False, 80), level(100, True, 62)]
    assert beyond_capacity(completed) == completed  # it did complete 80 a second
