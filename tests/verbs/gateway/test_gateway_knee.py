"""The search for the knee, against gateways whose capacity is known."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_synthetic import load
from halftime.records.gateway import Load
from halftime.verbs.gateway.knee import Knee


def searched(knee: Knee, capacity: float, **broken: bool) -> list[float]:
    """The rates that are tried where so many requests a second can be held."""
    rates = []
    while rate := knee.next_rate():
        rates.append(rate)
        beyond = broken if rate > capacity else {}
        knee.note(msgspec.structs.replace(load(mode="poisson", rate=rate), **beyond))
    return rates


@given(st.floats(0.5, 10_000), st.sampled_from(["saturated", "failing"]))
def test_the_knee_is_found_within_a_tenth(capacity: float, how: str) -> None:
    knee = Knee([])
    rates = searched(knee, capacity, **{how: True})
    assert len(rates) <= 14
    assert knee.held <= capacity
    if len(rates) < 14:
        assert knee.held * 1.1 >= capacity


def test_it_begins_at_half_of_what_the_closed_loop_completed() -> None:
    closed = load(mode="closed", throughput=400.0)
    assert Knee([closed]).next_rate() == 200
    assert Knee([]).next_rate() == 10


@pytest.mark.parametrize("why", [{"unclear": True}, {"cut": "429"}])
def test_it_ends_where_nothing_can_be_told(why: dict) -> None:
    knee = Knee([])
    rate = knee.next_rate()
    level: Load = msgspec.structs.replace(load(mode="poisson", rate=rate), **why)
    knee.note(level)
    assert knee.next_rate() is None
    assert knee.held is None
