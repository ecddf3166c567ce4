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
    pass_chances,
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


def choices_of(thresholds: np.ndarray, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(float(threshold), (scores >= threshold).astype(float)) for threshold in thresholds]


def test_a_certified_threshold_errs_too_often_in_at_most_delta_of_the_draws() -> None:
    """Scores are true probabilities, so every threshold's error is known.

    Alpha lies where certificates are close.
    """
    rng, alpha, wrong, certificates = np.random.default_rng(1), 0.05, 0, 0
    thresholds = np.linspace(0.99, 0.3, 70)
    population = rng.beta(8, 0.8, size=40_000)
    for _ in range(200):
        chance = rng.beta(8, 0.8, size=1600)
        fine = (rng.random(1600) < chance).astype(float)
        seen = [mask for _, mask in choices_of(thresholds, chance[:600])]
        ranks = sequence(
            np.asarray([mask @ (1 - fine[:600]) for mask in seen]),
            np.asarray([mask.sum() for mask in seen]),
            600,
            alpha=alpha,
            delta=0.1,
            draws=1000,
        )
        steps = certified(
            choices_of(thresholds[ranks], chance[600:]), fine[600:], alpha=alpha, delta=0.1
        )
        threshold = threshold_of(steps)
        if threshold is not None:
            certificates += 1
            wrong += float((1 - population[population >= threshold]).mean()) > alpha
    assert certificates > 150
    assert wrong / 200 <= 0.1


def test_testing_stops_at_the_first_failure() -> None:
    scores = np.array([0.9] * 300 + [0.5] * 300 + [0.1] * 300)
    fine = np.array([1.0] * 300 + [0.0] * 300 + [1.0] * 300)
    steps = certified(choices_of(np.array([0.9, 0.5, 0.1]), scores), fine, alpha=0.05, delta=0.05)
    assert [step.passed for step in steps] == [True, False]
    assert threshold_of(steps) == 0.9


def test_recurring_pictures_cannot_vouch_for_the_others() -> None:
    """900 right answers to a camera's pictures hide 20 wrong ones of 400, but do not help them."""
    fine = np.array([1.0] * 900 + [0.0] * 20 + [1.0] * 380)
    passing = np.array([0.0] * 900 + [1.0] * 400)
    everything = choices_of(np.array([0.0]), np.ones(1300))
    plain = certified(everything, fine, alpha=0.03, delta=0.05)
    apart = certified(everything, fine, alpha=0.03, delta=0.05, passing=passing)
    assert (plain[0].passed, apart[0].passed) == (True, False)
    assert (apart[0].errors, apart[0].sent) == (20, 1300)
    assert apart[0].bound == pytest.approx(upper_bound(20, 400, 0.05))


def test_no_choice_is_proposed_where_none_has_a_chance() -> None:
    sent = np.arange(1.0, 51)
    assert sequence(sent * 0, sent, 50, alpha=0.02, delta=0.05, draws=50) == []
    assert sequence(sent[:0], sent[:0], 50, alpha=0.02, delta=0.05, draws=500) == []


def test_the_first_test_is_one_that_is_sure_to_pass() -> None:
    """The smallest choices could fail by one error; the first is large enough to bear some."""
    sent = np.linspace(20, 1000, 50).round()
    ranks = sequence((sent * 0.002).round(), sent, 1000, alpha=0.02, delta=0.05, draws=1000)
    chances = pass_chances((sent * 0.002).round(), sent, sent, 0.02, 0.05)
    assert chances[ranks[0]] >= 0.99 > chances[ranks[0] - 1]
    assert ranks[-1] == 49
