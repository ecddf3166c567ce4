"""Hard prompts in full: a score that knows something saves more, and its certificate is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halftime.fix.hard_prompts import HardScore, StepFeatures
from halftime.verbs.tune.hard import calibrate, learned, route, score


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
