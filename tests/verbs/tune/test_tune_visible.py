"""When a picture differs visibly: the rule's limits, and pairs on either side of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from halftime.base.errors import BadInput
from halftime.records.certificate import Visible
from halftime.verbs.tune.visible import Ruler, check_metrics, ruler
from halftime.verbs.verify.pictures import Picture, PictureSet
from halftime.verbs.verify.ruler import size_of


def picture(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    return Picture(f"{seed:04d}", pixels, prompt="")


BASELINE = PictureSet("baseline", tuple(map(picture, range(4))))


@pytest.fixture(scope="module")
def rule() -> Ruler:
    return ruler(BASELINE, {}, {})


def test_the_limits_are_shares_of_a_stranger_and_at_least_the_margin(rule: Ruler) -> None:
    assert rule.rule.limits.keys() == rule.rule.shares.keys() == {"flip", "flip_local", "ms_ssim"}
    assert all(limit > 0 for limit in rule.rule.limits.values())


def test_equal_pictures_are_at_zero_and_strangers_far_beyond(rule: Ruler) -> None:
    first, second = BASELINE.pictures[:2]
    assert rule.size(first, first) == 0
    assert rule.size(first, replace(second, name=first.name)) > 2


def test_one_block_that_is_another_is_seen_though_the_mean_hardly_moves(rule: Ruler) -> None:
    first = BASELINE.pictures[0]
    pixels = first.pixels.copy()
    pixels[:8, :8] = 255 - pixels[:8, :8]
    size = rule.size(first, replace(first, pixels=pixels))
    assert size > 1
    without = {"flip": rule.rule.limits["flip"]}
    row = rule.tools.measure(first, replace(first, pixels=pixels))
    assert size_of(row, without) < 1


def test_a_broken_picture_differs_whatever_the_metrics_say(rule: Ruler) -> None:
    first = BASELINE.pictures[0]
    black = replace(first, pixels=np.zeros_like(first.pixels))
    assert rule.size(first, black) == math.inf
    smaller = replace(first, pixels=first.pixels[:64])
    assert rule.size(first, smaller) == math.inf


def test_given_limits_replace_the_rule() -> None:
    own = ruler(BASELINE, {}, {"rmse": 5.0})
    assert own.rule == Visible(limits={"rmse": 5.0})
    first = BASELINE.pictures[0]
    brighter = replace(first, pixels=np.clip(first.pixels, 0, 249) + np.uint8(6))
    assert own.size(first, brighter) > 1


def test_a_score_counts_where_it_falls() -> None:
    assert size_of({"agreement": 0.5}, {"agreement": 0.1}) == 0
    assert size_of({"agreement": -0.2}, {"agreement": 0.1}) == pytest.approx(2)


@pytest.mark.parametrize(("given", "word"), [({"lipps": 0.1}, "lipps"), ({"flip": 0.0}, "flip")])
def test_limits_that_mean_nothing_are_refused(given: dict[str, float], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        check_metrics(given)


def test_a_metric_that_cannot_be_computed_here_is_refused() -> None:
    with pytest.raises(BadInput, match="agreement"):
        ruler(BASELINE, {}, {"agreement": 0.1})  # the pictures have no prompts


def test_one_picture_is_too_few() -> None:
    with pytest.raises(BadInput, match="visible-by"):
        ruler(BASELINE.first(1), {}, {})
