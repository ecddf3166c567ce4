"""Saturation is a queue that is shown: simulated upstreams whose truth is known."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.verbs.gateway import analysis
from halftime.verbs.gateway.connection import Sample

SIGMA = 0.5  # of the logarithm: image and language models look like that
BLOCK = 2.0  # seconds


def sample(intended: float, latency: float) -> Sample:
    result = Sample("", "through", intended, intended, intended, intended + latency / 2)
    result.end, result.status = intended + latency, 200
    return result


def arrivals(rng: random.Random, rate: float, seconds: float) -> list[float]:
    moments, moment = [], rng.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += rng.expovariate(rate)
    return moments


def healthy(rng: random.Random, middle: float, rate: float, seconds: float = BLOCK) -> list[Sample]:
    """As many servers as are needed: latencies are independent."""
    return [
        sample(moment, rng.lognormvariate(math.log(middle), SIGMA))
        for moment in arrivals(rng, rate, seconds)
    ]


def queued(
    rng: random.Random, middle: float, rate: float, servers: int, seconds: float = BLOCK
) -> list[Sample]:
    """So many servers, first come, first served."""
    free, samples = [0.0] * servers, []
    for moment in arrivals(rng, rate, seconds):
        begun = max(heapq.heappop(free), moment)
        end = begun + rng.lognormvariate(math.log(middle), SIGMA)
        heapq.heappush(free, end)
        samples.append(sample(moment, end - moment))
    return samples


def hogged(rate: float, capacity: float, seconds: float = BLOCK) -> list[Sample]:
    """An event loop that takes all that has come, and answers it together."""
    waiting, free, samples = [i / rate for i in range(int(rate * seconds))], 0.0, []
    while waiting:
        free = max(free, waiting[0])
        batch = [moment for moment in waiting if moment <= free]
        waiting = waiting[len(batch) :]
        free += len(batch) / capacity
        samples += [sample(moment, free - moment) for moment in batch]
    return samples


def most(block: Callable[[], list[Sample]], unloaded: float) -> bool:
    """As a load decides: by the majority of three blocks."""
    return sum(analysis.saturated(block(), unloaded) for _ in range(3)) >= 2


@pytest.mark.parametrize("middle", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("rate", [4.0, 10.0, 50.0])
def test_healthy_upstreams_that_vary_are_not_saturated(middle: float, rate: float) -> None:
    flagged = 0
    for seed in range(60):
        rng = random.Random(seed)
        flagged += most(lambda rng=rng: healthy(rng, middle, rate), middle)
    assert flagged == 0


@pytest.mark.parametrize(
    ("middle", "rate", "servers", "seconds"),
    [(0.02, 100, 1, 2), (0.036, 200, 2, 2), (0.5, 50, 6, 2), (1, 50, 11, 2), (1, 10, 4, 20)],
)
def test_queues_are_found(middle: float, rate: float, servers: int, seconds: float) -> None:
    found = 0
    for seed in range(20):
        rng = random.Random(seed)
        found += most(lambda rng=rng: queued(rng, middle, rate, servers, seconds), middle)
    assert found == 20


@pytest.mark.parametrize(("rate", "capacity"), [(100, 47), (200, 62), (70, 62)])
def test_an_event_loop_that_answers_together_is_found(rate: float, capacity: float) -> None:
    assert analysis.saturated(hogged(rate, capacity), 0.03)
    assert not analysis.saturated(hogged(0.8 * capacity, capacity), 0.03)


def test_a_block_that_is_too_short_is_not_judged_by_likeness() -> None:
    """Requests of 3 s that a server takes together look like a queue within 2 s, and are none."""
    batched = [sample(i / 50, 3.0 - i / 50) for i in range(100)]
    assert not analysis.saturated(batched, 3.0)
    assert analysis.too_short(batched, 3.0)
    assert not analysis.too_short(hogged(100, 47), 0.03)


@given(st.lists(st.floats(0.01, 10), min_size=12, max_size=60), st.integers(0, 2**32))
def test_chances_are_chances(values: list[float], seed: int) -> None:
    for chance in (analysis.rising_chance(values), analysis.inherited_chance(values)):
        assert 0 <= chance <= 1
    rising = sorted(set(values))
    if len(rising) >= 12:
        assert analysis.rising_chance(rising) < 0.005
        assert analysis.rising_chance(rising[::-1]) > 0.99


def test_the_chances_of_independent_values_are_right() -> None:
    """False alarms come as often as the chance says."""
    rng = random.Random(1)
    draws = [[rng.lognormvariate(0, SIGMA) for _ in range(30)] for _ in range(2000)]
    for chance in (analysis.rising_chance, analysis.inherited_chance):
        assert 0.03 < sum(chance(values) < 0.05 for values in draws) / 2000 < 0.07
        assert sum(chance(values) < 0.005 for values in draws) / 2000 < 0.012


def test_a_trend_within_a_run() -> None:
    rng = random.Random(0)
    growing = [0.001 + 0.0001 * i + rng.expovariate(5000) for i in range(100)]
    trend = analysis.trend(growing)
    assert trend.last - trend.first == pytest.approx(0.0075, abs=0.0005)
    assert trend.chance < 1e-6
    steady = analysis.trend([0.001 + rng.expovariate(5000) for _ in range(100)])
    assert steady.chance > 0.001
    assert analysis.trend(growing[:19]) is None
