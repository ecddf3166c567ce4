"""The decision: equivalence within a margin of noise floors, and what its laws are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.stats import Interval
from halftime.records.verdict import EVERYTHING
from halftime.verbs.verify.decide import FEWEST, all_far, compare, decide, overall, prompts_needed
from halftime.verbs.verify.means import distance_mean

FLOOR = {"flip": 0.01, "agreement": 0.02}


def rows(values: list[float], metric: str = "flip") -> list[dict[str, float]]:
    return [{metric: value} for value in values]


def verdict(values: list[float], metric: str = "flip", margin: float = 3.0) -> str:
    return overall(compare(rows(values, metric), ["unsorted"] * len(values), FLOOR, margin))


def around(mean: float, spread: float, n: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, spread, n))


def test_equal_pictures_are_equivalent() -> None:
    assert verdict([0.0] * 3) == "equivalent"
    assert verdict([0.0] * 30) == "equivalent"


def test_inside_outside_and_on_the_margin() -> None:
    assert verdict(around(0.01, 0.004, 40)) == "equivalent"
    assert verdict(around(0.06, 0.01, 40)) == "different"
    assert verdict(around(0.03, 0.02, 20)) == "inconclusive"


def test_a_signed_score_has_two_sides() -> None:
    for sign in (1, -1):
        assert verdict(around(sign * 0.2, 0.02, 40), "agreement") == "different"
    assert verdict(around(0.0, 0.02, 60), "agreement") == "equivalent"


def test_a_few_pairs_decide_nothing_unless_equal_or_far_apart() -> None:
    for count in range(1, FEWEST):
        assert verdict([0.01] * count) == "inconclusive"
        assert verdict([0.04] * count) == "inconclusive"
        assert verdict([0.0] * count) == "equivalent"
    assert verdict([0.5] * (FEWEST - 1)) == "different"
    assert verdict([0.2] * 2) == "different"
    assert verdict([0.5, 0.5, 0.5, 0.001]) == "different"
    assert verdict([0.5], "agreement") == "inconclusive"  # a score has no such bound


def test_a_few_pairs_are_called_different_by_accident_in_five_percent_at_most() -> None:
    """On the margin, for values as skewed as they may be: Markov's bound holds for all of them."""
    rng = np.random.default_rng(0)
    for count in range(1, FEWEST):
        for sigma in (0.5, 1.0, 2.0):
            sets = 0.03 * np.exp(rng.normal(-(sigma**2) / 2, sigma, (300, count)))
            alarms = [all_far(list(values), 0.03, 0.05) for values in sets]
            assert np.mean(alarms) <= 0.05


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("count", [5, 8, 16, 50])
def test_equivalent_is_said_by_mistake_in_five_percent_of_skewed_sets(
    count: int, sigma: float
) -> None:
    """The true mean lies on the margin. The percentile bootstrap said it in 26 % at 5 pairs."""
    rng = np.random.default_rng(count)
    sets = np.exp(rng.normal(-(sigma**2) / 2, sigma, (400, count)))
    highs = np.array([distance_mean(list(s), 0.9, 1.0, np.inf).high for s in sets])
    assert np.mean(highs < 1.0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_bound_is_never_above_what_the_metric_can_be() -> None:
    interval = distance_mean([0.0, 0.0, 0.0, 0.0, 0.9], 0.9, 0.03, 1.0)
    assert interval.high == 1.0
    assert interval.low == 0.0


def test_one_bad_class_is_enough_and_is_named() -> None:
    values = around(0.002, 0.0005, 40) + around(0.06, 0.01, 20)
    comparisons = compare(rows(values), ["photo-like"] * 40 + ["hard-edged"] * 20, FLOOR, 3.0)
    assert overall(comparisons) == "different"
    decisions = {c.content_class: c.decision for c in comparisons}
    assert decisions["photo-like"] == "equivalent"
    assert decisions["hard-edged"] == "different"
    assert set(decisions) == {EVERYTHING, "photo-like", "hard-edged"}


def test_a_single_class_is_not_compared_twice() -> None:
    assert len(compare(rows([0.1] * 8), ["photo-like"] * 8, FLOOR, 3.0)) == 1


@given(
    st.lists(st.floats(0, 0.2), min_size=FEWEST, max_size=40), st.floats(0.5, 10), st.floats(1.0, 5)
)
def test_a_wider_margin_never_makes_equivalent_pictures_unequal(
    values: list[float], margin: float, factor: float
) -> None:
    if verdict(values, margin=margin) == "equivalent":
        assert verdict(values, margin=margin * factor) == "equivalent"


@given(st.lists(st.floats(-0.2, 0.2), min_size=FEWEST, max_size=30))
def test_exchanging_the_sides_of_a_signed_score_changes_nothing(values: list[float]) -> None:
    assert verdict(values, "agreement") == verdict([-value for value in values], "agreement")


def test_the_number_of_prompts_that_it_asks_for_settles_it() -> None:
    """Drawn anew with that many pairs, most sets decide; with a quarter of them, fewer do."""
    limit = 0.03
    needed = prompts_needed(around(0.024, 0.02, 5000, seed=1), limit)
    decided = [verdict(around(0.024, 0.02, needed, seed)) == "equivalent" for seed in range(60)]
    fewer = [
        verdict(around(0.024, 0.02, max(FEWEST, needed // 4), seed)) == "equivalent"
        for seed in range(60)
    ]
    assert np.mean(decided) > 0.6
    assert np.mean(fewer) < np.mean(decided)


def test_false_alarms_are_rarer_than_five_percent_on_the_margin() -> None:
    """Mean exactly on the margin: 'equivalent' would be wrong, and may be said in about 5 % of
    sets."""
    said = [verdict(around(0.03, 0.01, 60, seed)) for seed in range(200)]
    assert said.count("equivalent") / 200 < 0.1
    assert said.count("different") / 200 < 0.1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-1, 1, "equivalent"), (4, 5, "different"), (2, 4, "inconclusive")],
)
def test_decide(low: float, high: float, expected: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert decide(interval, interval, 3.0, 20) == expected
