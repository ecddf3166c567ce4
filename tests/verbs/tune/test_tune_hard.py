"""Hard prompts in full: a score that knows something saves more, and its certificate is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halftime.fix.hard_prompts import HardScore, StepFeatures, scored_calls
from halftime.records import Json
from halftime.records.recipe import Choice
from halftime.verbs.tune.hard import calibrate, foreseen, learned, route, score
from halftime.verbs.tune.race import Raced
from halftime.verbs.tune.routing import both_ways, candidate, mixed
from halftime.verbs.tune.space import Setting


def population(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and how far the cheap picture is: the first two say much of it."""
    features = rng.normal(size=(count, 4))
    sizes = np.exp(-1.5 + 0.6 * features[:, 0] + 0.4 * features[:, 1] + rng.normal(0, 0.3, count))
    return features, sizes


def routed(rng: np.random.Generator, features: np.ndarray, sizes: np.ndarray, alpha: float = 0.05):  # type: ignore[no-untyped-def]
    prompts = rng.permutation(600)
    full = np.zeros(len(sizes))
    return calibrate(features, sizes, full, prompts[:200], prompts[200:600], alpha, 0.95)


def test_hard_prompts_score_higher() -> None:
    features, sizes = population(np.random.default_rng(0), 400)
    scores = score(*learned(features[:200], sizes[:200]), features[200:])
    assert np.corrcoef(scores, np.log(sizes[200:]))[0, 1] > 0.8


def test_the_certificate_is_kept_and_most_easy_prompts_are_cheap() -> None:
    rng = np.random.default_rng(1)
    features, sizes = population(rng, 20_000)
    assert (sizes > 1).mean() > 0.01  # too many at alpha 1 %
    broken, shares = 0, []
    for _ in range(60):
        chosen = rng.choice(20_000, 600, replace=False)
        router = routed(rng, features[chosen], sizes[chosen])
        different = (sizes > 1) & route(router, features)
        broken += different.mean() > 0.05
        shares.append(router.cheap_share)
    assert broken <= 3
    assert np.mean(shares) > 0.7


def test_the_fix_decides_as_the_calibration_did() -> None:
    """Through the setting's plain list, from a model's answers: the same score, the same calls."""
    rng = np.random.default_rng(4)
    answers = torch.tensor(rng.normal(size=(60, 3, 2, 4)), dtype=torch.float32)

    def seen(answer: torch.Tensor) -> list[torch.Tensor]:
        features = StepFeatures()
        return [features.of((step,)) for step in answer]

    plain = np.stack([torch.cat(seen(a)[1:]).log().numpy()[:, 0] for a in answers])
    sizes = np.exp(plain.mean(axis=1))
    half = np.arange(30)
    router = calibrate(plain, sizes / np.median(sizes), np.zeros(60), half, half + 30, 0.3, 0.8)
    cheap = route(router, plain)
    assert 0 < cheap.sum() < 60
    for answer, goes_on in zip(answers, cheap, strict=True):
        score = HardScore(router.setting())
        for step in answer:
            score.see((step,))
        assert score.is_hard() != goes_on


def test_a_score_that_knows_nothing_saves_less() -> None:
    rng = np.random.default_rng(2)
    features, sizes = population(rng, 600)
    sizes = 3 * sizes  # hard ones are common
    blind = routed(rng, rng.normal(size=features.shape), sizes)
    seeing = routed(rng, features, sizes)
    assert seeing.cheap_share > blind.cheap_share + 0.1
    assert seeing.at_most <= 0.05


def test_nothing_is_certified_where_the_full_pictures_differ_too() -> None:
    rng = np.random.default_rng(3)
    features, sizes = population(rng, 600)
    prompts = np.arange(600)
    router = calibrate(features, sizes, 2 + sizes, prompts[:200], prompts[200:], 0.05, 0.95)
    assert router.threshold == -np.inf
    assert router.at_most == 1.0
    assert not route(router, features).any()
    assert router.cheap_share == pytest.approx(0.0)


# ---- what is foreseen, before a test


def test_what_is_foreseen_is_about_what_is_certified_later() -> None:
    rng = np.random.default_rng(5)
    features, sizes = population(rng, 700)
    full = np.zeros(300)
    share = foreseen(features[:300], sizes[:300], full, 400, 0.05, 0.95)
    router = routed(rng, features[100:], sizes[100:])
    assert share == pytest.approx(router.cheap_share, abs=0.2)


def test_nothing_is_foreseen_where_no_test_would_pass() -> None:
    rng = np.random.default_rng(6)
    features, sizes = population(rng, 96)
    assert foreseen(features, sizes, 2 + sizes, 240, 0.05, 0.95) == 0.0
    assert foreseen(features, 0 * sizes, 0 * sizes, 240, 0.05, 0.95) == 1.0


def raced(name: str, speedup: float, *sizes: float, **settings: Json) -> Raced[Setting]:
    change = Choice(name=name, settings=settings)
    return Raced(Setting((change,), (change,)), speedup, sizes)


def test_the_cache_with_most_to_save_is_routed() -> None:
    slow = raced("step-cache", 2.1, 0.1, 0.2, 0.1, 0.2, kind="deep", every=2)
    harsh = raced("step-cache", 3.0, 9.0, 9.0, 9.0, 0.2, kind="deep", every=4)
    best = raced("step-cache", 2.6, 0.1, 1.5, 0.1, 0.2, kind="deep", every=3)
    others = [raced("solver-steps", 5.0, 0.1, 0.1, 0.1, 0.1), raced("step-cache", 4.0, 0.1, 0.1)]
    assert candidate([slow, harsh, best, *others], 2.0) is best
    assert candidate([slow, best], 2.6) is None
    assert mixed(0.5, 3.0, 1.5) == pytest.approx(2.0)


def test_both_ways_share_their_first_steps() -> None:
    cache = raced("step-cache", 2.0, kind="deep", every=3).setting
    cheap, full = both_ways(cache, 30)
    for setting, is_hard in ((cheap, False), (full, True)):
        (choice,) = setting.plan
        assert choice.settings["full_steps"] == 9
        hard = choice.settings["hard"]
        assert isinstance(hard, list)
        score = HardScore([float(str(value)) for value in hard])
        for _ in range(9):
            score.see((torch.randn(2, 4),))
        with scored_calls() as rows:
            assert score.is_hard() is is_hard
        assert rows[0].shape == (1, 16)
