"""What the search for a certificate writes down of each setting."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from halftime.records.certificate import TriedSetting
from halftime.verbs.tune.race import Raced, ShareTest, hopeless
from halftime.verbs.tune.space import Setting

SLOW = 1.02  # what does not even gain this over the recipe so far leaves the race


def untested(raced: Raced[Setting], seconds: float, why: str) -> TriedSetting:
    """A setting that was drawn with in the search alone."""
    return TriedSetting(
        fixes=raced.setting.plan,
        changes=raced.setting.changes,
        seconds=seconds,
        speedup=raced.speedup,
        searched=len(raced.sizes),
        search_different=raced.different,
        predicted_share=raced.predicted_share,
        why=why,
    )


def after_test(raced: Raced[Setting], seconds: float, result: ShareTest) -> TriedSetting:
    """A setting that was tested, passed or not."""
    return msgspec.structs.replace(
        untested(raced, seconds, ""),
        pairs=result.pairs,
        different=result.different,
        at_most=result.at_most,
        passed=result.passed,
    )


def failure(name: str, why: str) -> TriedSetting:
    """A setting that could not be drawn with."""
    return TriedSetting(
        fixes=(),
        changes=(),
        seconds=0.0,
        speedup=1.0,
        searched=0,
        search_different=0,
        predicted_share=1.0,
        why=f"{name}: {why}",
    )


def why_untested(
    raced: Raced[Setting], queue: Sequence[Raced[Setting]], speedup: float, alpha: float
) -> str:
    """`speedup` is what the recipe so far brings."""
    if raced in queue:
        return "a more harmless one failed before"
    if raced.speedup < SLOW * speedup:
        return "not faster than the recipe without it"
    if hopeless(raced.sizes, alpha):
        return "too many pictures of the search differ visibly"
    return "a more harmless one is as fast, or a faster one is as sure to pass"
