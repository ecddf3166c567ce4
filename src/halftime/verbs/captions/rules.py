"""Requests that always go to the large model, whatever the router thinks: the user's own rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from halftime.base.errors import BadInput
from halftime.base.store import read_json
from halftime.records.captions import NeverSmall, RoutingRules


def read_rules(path: str | Path) -> tuple[NeverSmall, ...]:
    """The rules of a file. Raises BadFile, or BadInput for a rule that can never or always hold."""
    rules = read_json(path, RoutingRules).never_small
    for rule in rules:
        if not (rule.prompt or rule.pixels_below or rule.pixels_above):
            raise BadInput(
                f"{path}: the rule {rule.name!r} has no condition. Give it a 'prompt', "
                "'pixels_below' or 'pixels_above'."
            )
        try:
            _pattern(rule.prompt)
        except re.error as error:
            raise BadInput(
                f"{path}: the rule {rule.name!r} has the prompt {rule.prompt!r}, which is not a "
                f"regular expression: {error}."
            ) from error
    return rules


@lru_cache(256)
def _pattern(prompt: str) -> re.Pattern[str]:
    return re.compile(prompt, re.IGNORECASE)


def barring(rules: Sequence[NeverSmall], prompt: str, pixels: float) -> NeverSmall | None:
    """The first rule that forbids the small model."""
    return next((rule for rule in rules if _holds(rule, prompt, pixels)), None)


def _holds(rule: NeverSmall, prompt: str, pixels: float) -> bool:
    return (
        (not rule.prompt or _pattern(rule.prompt).search(prompt) is not None)
        and (rule.pixels_below is None or pixels < rule.pixels_below)
        and (rule.pixels_above is None or pixels > rule.pixels_above)
    )
