"""Promises about a share: exact bounds, and tests in a fixed order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.base.certain import (
    fewest_alike,
    fewest_draws,
    fixed_sequence,
    most_failures,
    pass_chance,
)
from halftime.base.stats import largest_share, smallest_share

SHARES = st.floats(0.005, 0.4)
CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def test_two_percent_at_95_takes_149_draws_without_a_failure() -> None:
    assert fewest_draws(0.02, 0.95) == 149
    assert most_failures(148, 0.02, 0.95) == -1
    assert most_failures(149, 0.02, 0.95) == 0


@settings(max_examples=30, deadline=None)
@given(SHARES, CONFIDENCES)
def test_so_many_certify_and_one_less_does_not(alpha: float, confidence: float) -> None:
    draws = fewest_draws(alpha, confidence)
    assert largest_share(0, draws, confidence=confidence) <= alpha + 1e-9
    if draws > 1:
        assert largest_share(0, draws - 1, confidence=confidence) > alpha


@settings(max_examples=30, deadline=None)
@given(SHARES, CONFIDENCES, st.integers(10, 300))
def test_at_the_share_itself_a_test_passes_no_oftener_than_it_may(
    alpha: float, confidence: float, draws: int
) -> None:
    assert pass_chance(alpha, draws, alpha, confidence) <= 1 - confidence + 1e-9
    assert pass_chance(0.0, draws, alpha, confidence) == float(
        draws >= fewest_draws(alpha, confidence)
    )


def test_draws_that_allow_no_further_failure_are_left_out() -> None:
    assert [fewest_alike(draws, 0.02, 0.95) for draws in (149, 200, 236, 240)] == [
        *(149, 149),
        *(236, 236),
    ]


@pytest.mark.parametrize(("count", "total"), [(0, 24), (2, 4), (24, 24)])
def test_the_bounds_enclose_what_was_seen(count: int, total: int) -> None:
    assert smallest_share(count, total) <= count / total <= largest_share(count, total)


def test_a_sequence_ends_with_its_first_failure() -> None:
    assert fixed_sequence([1, 2, 9, 3], lambda n: n, lambda n: n < 5) == [1, 2, 9]
    assert fixed_sequence([1, 2], lambda n: n, lambda n: n < 5) == [1, 2]
