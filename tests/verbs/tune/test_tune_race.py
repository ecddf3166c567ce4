"""The race of approximate settings as functions of numbers, and whether its certificate is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from halftime.base.certain import fixed_sequence
from halftime.verbs.tune.race import Raced, hopeless, order, predicted_share, share_test


def raced(name: str, speedup: float, sizes: tuple[float, ...]) -> Raced[str]:
    return Raced(name, speedup, sizes)


NEAR, MIDDLE, FAR = (0.1, 0.12, 0.09, 0.11) * 6, (0.5, 0.6, 0.7, 0.4) * 6, (0.9, 1.2, 0.8, 1.5) * 6


def test_the_distance_from_the_limit_says_more_than_a_count() -> None:
    assert predicted_share(NEAR) < 1e-6 < predicted_share(MIDDLE) < 0.2 < predicted_share(FAR)
    assert predicted_share((*NEAR[:-1], math.inf)) >= 1 / 24  # a broken picture counts as seen


def test_a_setting_is_hopeless_where_no_test_would_pass() -> None:
    assert not hopeless((0.1, 0.2, 0.3, 1.1), 0.02)  # one of four may be bad luck
    assert hopeless((0.1, 0.2, 1.3, 1.1), 0.02)
    assert not hopeless((0.1, 0.2, 1.3, 1.1), 0.5)


def test_the_order_is_from_harmless_to_harsh_and_each_is_faster() -> None:
    entries = [raced("far", 4.0, FAR), raced("near", 2.0, NEAR), raced("slow", 1.5, MIDDLE)]
    names = [entry.setting for entry in order(entries, 200, 0.05, 0.95)]
    assert names == ["near", "far"]  # 'slow' loses more than 'near' and gains less


def test_the_first_test_is_of_the_fastest_that_is_sure_to_pass() -> None:
    entries = [
        raced("a", 1.2, NEAR),
        raced("b", 1.4, tuple(1.1 * s for s in NEAR)),
        raced("c", 3, FAR),
    ]
    assert [entry.setting for entry in order(entries, 200, 0.1, 0.95)] == ["b", "c"]
    # 24 pictures cannot promise so little: then the most harmless comes first
    assert [entry.setting for entry in order(entries, 200, 0.02, 0.95)] == ["a", "b", "c"]


def test_nothing_is_tested_where_nothing_is_faster_or_the_draws_are_too_few() -> None:
    assert order([raced("slow", 0.9, NEAR)], 200, 0.05, 0.95) == []
    assert order([raced("fast", 2.0, NEAR)], 20, 0.05, 0.95) == []


def test_a_test_asks_for_no_more_pictures_once_too_many_differ() -> None:
    asked: list[float] = []

    def sizes() -> object:
        for size in (0.1, 1.5, 0.1, 0.1):
            asked.append(size)
            yield size

    result = share_test(sizes(), 149, 0.02, 0.95)  # type: ignore[arg-type]
    assert (result.passed, result.pairs, result.different, result.at_most) == (False, 2, 1, None)
    assert asked == [0.1, 1.5]


def test_a_test_that_was_cut_short_fails() -> None:
    assert not share_test([0.1] * 148, 149, 0.02, 0.95).passed
    result = share_test([0.1] * 149, 149, 0.02, 0.95)
    assert result.passed
    assert result.at_most == pytest.approx(0.0199, abs=1e-3)


def test_the_certificate_is_kept_over_many_calibrations() -> None:
    """Settings whose true shares are known: rarely is one certified that exceeds alpha."""
    rng, alpha, broken, given = np.random.default_rng(0), 0.05, 0, 0
    spreads = {"a": (-1.2, 0.4), "b": (-0.75, 0.45), "c": (-0.6, 0.45), "d": (-0.3, 0.5)}
    future = {n: rng.lognormal(*spread, 20_000) for n, spread in spreads.items()}
    truth = {name: float((sizes > 1).mean()) for name, sizes in future.items()}
    assert truth["b"] < alpha < truth["c"]  # so that the tests have something to get wrong
    for _ in range(100):
        entries = [
            raced(name, 1.2 + index / 5, tuple(rng.lognormal(*spreads[name], 24)))
            for index, name in enumerate(spreads)
        ]
        queue = order(entries, 200, alpha, 0.95)
        results = fixed_sequence(
            queue,
            lambda entry: share_test(rng.lognormal(*spreads[entry.setting], 200), 200, alpha, 0.95),
            lambda result: result.passed,
        )
        passed = [entry for entry, r in zip(queue, results, strict=False) if r.passed]
        given += bool(passed)
        broken += bool(passed) and truth[passed[-1].setting] > alpha
    assert broken <= 5
    assert given >= 50
