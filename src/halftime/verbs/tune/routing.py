"""A router for `tune --visible`: which calls a cache draws cheaply, and which in full.

Its prompts are the search's and LEARNED more, which no test sees. What it is expected to save
decides, before the first test, whether thresholds are tested or settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from halftime.fix.base import number
from halftime.fix.hard_prompts import same_for_all
from halftime.records.certificate import Routing
from halftime.records.recipe import Choice
from halftime.verbs.tune.hard import Array, Routed, calibrate
from halftime.verbs.tune.race import Raced
from halftime.verbs.tune.space import Setting, is_deep, with_full_ends

LEARNED = 72  # prompts beside those of the search
_FULL_SHARE = 0.3  # of the steps, which are looked at
_MOST_DIFFERENT = 0.5  # of a cache's pictures, where a router may still pay


class BothWays(NamedTuple):
    """Prompts drawn both ways: what their first steps showed, and how far each picture is from the
    baseline's."""

    features: Array
    cheap: Array
    full: Array

    def joined(self, more: BothWays) -> BothWays:
        """These prompts, and then those."""
        return BothWays(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))


class RoutedCache(NamedTuple):
    """A cache that may be routed, and the prompts that a score is learned from."""

    setting: Setting  # one cache on top of the recipe so far
    prompts: BothWays
    cheap_speedup: float  # over the baseline, of a call that is not hard
    share: float  # of calls that are expected to be drawn cheaply
    speedup: float  # that is expected, of all calls together


def candidate(searched: Sequence[Raced[Setting]], speedup: float) -> Raced[Setting] | None:
    """Of the caches that were searched alone, the one that would be fastest if an oracle drew the
    pictures in full which differ visibly; `speedup` is the recipe's so far."""
    caches = [
        raced
        for raced in searched
        if _cache_of(raced.setting) is not None
        and raced.speedup > speedup
        and raced.predicted_share <= _MOST_DIFFERENT
    ]
    return max(
        caches,
        key=lambda raced: mixed(1 - raced.predicted_share, raced.speedup, speedup),
        default=None,
    )


def _cache_of(setting: Setting) -> Choice | None:
    """The UNet's cache that the setting consists of."""
    alone = setting.changes[0] if len(setting.changes) == 1 else None
    return alone if alone is not None and is_deep(alone) else None


def mixed(share: float, cheap: float, full: float) -> float:
    """The speedup where a share of the calls runs at one and the rest at the other."""
    return 1 / (share / cheap + (1 - share) / full)


def scored(setting: Setting, steps: int, hard: Sequence[float]) -> Setting:
    """The cache with a score of its full steps, of so many in all."""
    cache = _cache_of(setting)
    assert cache is not None
    change = _looked_at(cache, steps)
    change = msgspec.structs.replace(change, settings={**change.settings, "hard": list(hard)})
    plan = tuple(change if choice == cache else choice for choice in setting.plan)
    return Setting((change,), plan)


def _looked_at(cache: Choice, steps: int) -> Choice:
    """The cache after the full steps that a score is made of."""
    return with_full_ends(cache, steps, _FULL_SHARE)


def both_ways(setting: Setting, steps: int) -> tuple[Setting, Setting]:
    """The cache as every call is drawn cheaply, and as every call is drawn in full."""
    cache = _cache_of(setting)
    assert cache is not None
    count = int(number(_looked_at(cache, steps).settings, "full_steps"))
    cheap, full = (scored(setting, steps, same_for_all(count, hard=hard)) for hard in (False, True))
    return cheap, full


def certified_router(learned: BothWays, tests: BothWays, alpha: float, confidence: float) -> Routed:
    """A score from the one part, and its threshold certified on the other."""
    count = len(learned.cheap)
    return calibrate(
        *learned.joined(tests),
        np.arange(count),
        np.arange(count, count + len(tests.cheap)),
        alpha,
        confidence,
    )


def routing_of(
    routed: Routed, learned: RoutedCache, tests: BothWays, full_speedup: float
) -> Routing:
    """What the recipe says of its router."""
    oracle = float((tests.cheap <= 1).mean())
    return Routing(
        cheap_share=routed.cheap_share,
        oracle_share=oracle,
        learned=len(learned.prompts.cheap),
        cheap_different_share=1 - oracle,
        saving_share=1
        - full_speedup / mixed(routed.cheap_share, learned.cheap_speedup, full_speedup),
        oracle_saving_share=1 - full_speedup / mixed(oracle, learned.cheap_speedup, full_speedup),
    )
