"""Statistics: robust, additive, with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base import stats

VALUES = st.lists(st.floats(0.1, 100), min_size=1, max_size=40)


@given(VALUES)
def test_middle_half_keeps_the_middle_by_rank(values: list[float]) -> None:
    kept = stats.middle_half(values)
    assert len(kept) >= max(1, len(values) / 2) or len(values) == 3
    dropped = [values[i] for i in range(len(values)) if i not in kept]
    low, high = min(values[i] for i in kept), max(values[i] for i in kept)
    assert all(value <= low or value >= high for value in dropped)


def test_one_outlier_among_three_is_dropped() -> None:
    assert stats.middle_half([1.0, 99.0, 2.0]) == [2]


@given(VALUES)
def test_spread_is_zero_only_for_steady_values(values: list[float]) -> None:
    assert stats.spread([values[0]] * 5) == 0
    assert stats.spread(values) >= 0


def test_the_bootstrap_interval_covers_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = sum(
        low <= 0 <= high
        for _, low, high in (
            stats.bootstrap(rng.normal(size=30).tolist(), resamples=400) for _ in range(200)
        )
    )
    assert 180 <= covered <= 200


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=stats.FEWEST - 1))
def test_few_values_have_a_range_and_say_so(values: list[float]) -> None:
    interval = stats.spanned(values)
    assert (interval.low, interval.high) == (min(values), max(values))
    ratio = stats.paired_ratio(values, [1.0] * len(values))
    assert (ratio.low, ratio.high) == (min(values), max(values))
    assert stats.bounds_word(len(values)) == f"range of {len(values)} runs"
    assert stats.bounds_word(stats.FEWEST) == "95 % interval"


def test_the_ratio_of_few_runs_has_the_widest_range() -> None:
    assert stats.unpaired_ratio([2.0, 4.0], [1.0, 2.0]) == (2.0, 1.0, 4.0)


@given(VALUES)
def test_the_paired_ratio_of_a_thing_to_itself_is_one(values: list[float]) -> None:
    assert stats.paired_ratio(values, values) == (1, 1, 1)
    ratio = stats.paired_ratio([2 * value for value in values], values)
    assert ratio.value == pytest.approx(2)


def test_pairs_cancel_drift_where_medians_would_not() -> None:
    drift = [1 + 0.1 * i for i in range(20)]
    interval = stats.paired_ratio([1.05 * d for d in drift], drift)
    assert interval.low == pytest.approx(1.05)
    assert stats.unpaired_ratio([1.05 * d for d in drift], drift).low < 1


def test_refusals() -> None:
    for function in (
        stats.median,
        stats.bootstrap,
        lambda v: stats.quantile(v, 0.5),
    ):
        with pytest.raises(ValueError, match=r"values"):
            function([])
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.paired_ratio([1.0], [1.0, 2.0])


@given(VALUES, st.floats(0, 1))
def test_order_statistics_are_numpys(values: list[float], q: float) -> None:
    assert stats.median(values) == np.median(values)
    assert stats.quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-12)
