"""Which requests prove the promise: independent draws, each request with the same chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.verbs.captions.certify import upper_bound
from halftime.verbs.captions.families import divide, power
from halftime.verbs.captions.near import NEAR, SIDE, grouped

PLAIN = {"alpha": 0.02, "delta": 0.05}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), min_size=20, max_size=120), st.integers(0, 5))
def test_no_family_is_in_two_parts_and_none_is_drawn_twice(groups: list[int], seed: int) -> None:
    division = divide(groups, seed=seed, **PLAIN)
    owners = [{groups[i] for i in part} for part in (division.fit, division.proof, division.test)]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert len(owners[1]) == len(division.proof)


def test_every_request_has_the_same_chance_to_be_drawn() -> None:
    groups = [0] * 6 + [1] * 3 + list(range(2, 60))
    drawn = np.zeros(len(groups))
    for seed in range(600):
        drawn[divide(groups, seed=seed, **PLAIN).proof] += 1
    assert drawn / 600 == pytest.approx(drawn.mean() / 600, abs=0.09)


def cameras(count: int, share: float, others: int, rng: np.random.Generator) -> list[int]:
    """A log in which fixed cameras come all through."""
    size = round(share * others / (1 - count * share))
    names = np.concatenate([np.repeat(np.arange(count), size), np.arange(others) + count])
    return rng.permutation(names).tolist()


def test_fixed_cameras_count_by_requests_and_a_burst_does_not() -> None:
    groups = cameras(4, 0.05, 2400, np.random.default_rng(0))
    division = divide(groups, seed=0, **PLAIN)
    assert (division.counts.recurring, len(division.proof) > 600) == (4, True)
    assert division.counts.recurring_share == pytest.approx(0.2)
    assert division.passing.mean() == pytest.approx(0.8, abs=0.05)
    burst = divide(sorted(groups), seed=0, **PLAIN)
    assert (burst.counts.recurring, len(burst.proof) < 60) == (0, True)
    assert divide(groups, seed=0, treatment="passing", **PLAIN).counts.recurring == 0
    assert divide(sorted(groups), seed=0, treatment="recurring", **PLAIN).counts.recurring == 4


def test_a_log_of_cameras_alone_rests_on_no_guess() -> None:
    groups = cameras(40, 0.02, 800, np.random.default_rng(0))
    assert divide(groups, seed=0, **PLAIN).counts.recurring == 0


@pytest.mark.parametrize("size", [1, 5])
def test_the_bound_covers_the_share_per_request_whatever_the_families(size: int) -> None:
    """Large families fail more often, and as one: the mean over families would be too low."""
    rng, missed, truth = np.random.default_rng(size), 0, 0.03
    for seed in range(300):
        sizes = np.where(rng.random(300) < 0.5, 1, size)
        groups = np.repeat(np.arange(300), sizes)
        fails = (rng.random(300) < np.where(sizes == 1, 0.03, 0.08))[groups]
        proof = divide(groups.tolist(), seed=seed, **PLAIN).proof
        missed += upper_bound(int(fails[proof].sum()), len(proof), 0.05) < truth
    assert missed <= 300 * 0.05 + 2.5 * (300 * 0.05 * 0.95) ** 0.5


def test_the_power_is_what_the_draws_can_prove() -> None:
    groups = list(range(1000))
    result = power(divide(groups, seed=0, **PLAIN), 1000, **PLAIN)
    assert result.needed == 149
    assert 250 < result.draws < 350
    assert upper_bound(0, result.draws, 0.05) == pytest.approx(result.least_alpha)
    most = result.most_errors["100%"]
    assert upper_bound(most, result.draws, 0.05) <= 0.02 < upper_bound(most + 1, result.draws, 0.05)
    few = power(divide([0] * 500 + groups, seed=0, **PLAIN), 1500, **PLAIN)
    assert "501 requests (33.4%) are near duplicates" in few.why_few
    short = power(divide(groups[:200], seed=0, **PLAIN), 200, **PLAIN)
    assert "200 requests of 200 different pictures" in short.why_few


def sketches(count: int, seed: int) -> list[bytes]:
    """Flat grounds with a disc of any colour, size and place: simple, and all different."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:SIDE, :SIDE] / SIDE
    marks = []
    for _ in range(count):
        centre, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.02, 0.2)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius
        ground, disc = rng.integers(0, 256, (2, 3))
        marks.append(np.where(inside[..., None], disc, ground).astype(np.uint8).tobytes())
    return marks


def test_different_pictures_are_not_chained_and_near_ones_share_a_family() -> None:
    marks = sketches(1500, 0)
    _, sizes = np.unique(grouped(marks), return_counts=True)
    assert sizes.max() <= 3
    rng = np.random.default_rng(1)
    again = [
        np.clip(np.frombuffer(mark, np.uint8) + rng.normal(0, 2, SIDE * SIDE * 3), 0, 255)
        .astype(np.uint8)
        .tobytes()
        for mark in marks[:200]
    ]
    families = grouped([*marks[:200], *again])
    assert np.mean(np.asarray(families[:200]) == families[200:]) >= 0.97
    assert NEAR == 0.02


def test_the_work_grows_with_the_number_of_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons are counted, not seconds: of very many different pictures of one colour."""
    from halftime.verbs.captions import near

    counts = []
    square = np.square

    def counted(values: np.ndarray) -> np.ndarray:
        counts[-1] += 1
        return square(values)

    monkeypatch.setattr(near, "MOST_COMPARED", 4)
    for size in (200, 400):
        rng = np.random.default_rng(0)
        marks = [
            rng.integers(120, 136, SIDE * SIDE * 3).astype(np.uint8).tobytes() for _ in range(size)
        ]
        monkeypatch.setattr(near.np, "square", counted)
        counts.append(0)
        grouped(marks)
        monkeypatch.undo()
        monkeypatch.setattr(near, "MOST_COMPARED", 4)
    assert counts[1] <= 2.2 * counts[0]


def test_the_logs_own_words_are_families() -> None:
    first, second = sketches(2, 0)
    assert grouped([first, "a", second, "b", "a", first]) == [0, 1, 2, 3, 1, 0]
