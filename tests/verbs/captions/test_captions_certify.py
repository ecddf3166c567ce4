"""Bounds and the fixed sequence: checked against the truth that a simulation knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.verbs.captions.certify import (
    certified,
    lower_bound,
    needed,
    sequence,
    threshold_of,
    upper_bound,
)


def test_without_an_error_149_examples_certify_two_percent() -> None:
    assert needed(0.02, 0.05, 0.0) == 149
    assert upper_bound(0, 149, 0.05) <= 0.02 < upper_bound(0, 148, 0.05)


def test_the_nearer_the_error_the_more_examples() -> None:
    counts = [needed(0.02, 0.05, rate) for rate in (0.0, 0.005, 0.01, 0.015)]
    assert counts == sorted(counts)  # type: ignore[type-var]
    assert needed(0.02, 0.05, 0.02) is None


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.5))
def test_the_bounds_lie_around_the_share(errors: int, sent: int, delta: float) -> None:
    errors = min(errors, sent)
    assert (
        0
        <= lower_bound(errors, sent, delta)
        <= errors / sent
        <= upper_bound(errors, sent, delta)
        <= 1
    )


@pytest.mark.parametrize("truth", [0.01, 0.05, 0.3])
def test_the_upper_bound_holds_as_often_as_it_says(truth: float) -> None:
    rng = np.random.default_rng(0)
    draws = rng.binomial(200, truth, size=2000)
    missed = np.mean(
        [
            upper_bound(int(k), 200, 0.05) < truth
            for k in np.unique(draws)
            for _ in range((draws == k).sum())
        ]
    )
    assert missed <= 0.05


def test_a_certified_threshold_errs_too_often_in_at_most_delta_of_the_draws() -> None:
    """Scores are true probabilities, so every threshold's error is known.

    Alpha lies where certificates are close.
    """
    rng, alpha, wrong, certificates = np.random.default_rng(1), 0.05, 0, 0
    for _ in range(200):
        chance = rng.beta(8, 0.8, size=1600)
        fine = (rng.random(1600) < chance).astype(float)
        steps = certified(
            sequence(chance[:600], fine[:600], alpha=alpha, delta=0.1, fresh=1000),
            chance[600:],
            fine[600:],
            alpha=alpha,
            delta=0.1,
        )
        threshold = threshold_of(steps)
        if threshold is not None:
            population = rng.beta(8, 0.8, size=40_000)
            certificates += 1
            wrong += float((1 - population[population >= threshold]).mean()) > alpha
    assert certificates > 150
    assert wrong / 200 <= 0.1


def test_testing_stops_at_the_first_failure() -> None:
    scores = np.array([0.9] * 300 + [0.5] * 300 + [0.1] * 300)
    fine = np.array([1.0] * 300 + [0.0] * 300 + [1.0] * 300)
    steps = certified([0.9, 0.5, 0.1], scores, fine, alpha=0.05, delta=0.05)
    assert [step.passed for step in steps] == [True, False]
    assert threshold_of(steps) == 0.9


def test_no_threshold_is_proposed_where_none_has_a_chance() -> None:
    assert sequence(np.linspace(0, 1, 50), np.ones(50), alpha=0.02, delta=0.05, fresh=50) == []
