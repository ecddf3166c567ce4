"""The largest value of a setting whose pictures are still good enough: found, and not fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from halftime.records.fixes import FIX_ROWS, Search
from halftime.records.recipe import Choice

T = TypeVar("T")


def last_good(values: Sequence[T], is_good: Callable[[T], bool]) -> T | None:
    """The last value that is good, where all before a good one are good: about log2(n) questions.
    None where the first is not."""
    good, bad = -1, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(values[middle]):
            good = middle
        else:
            bad = middle
    return values[good] if good >= 0 else None


def search_of(choice: Choice) -> Search | None:
    """What there is to search in a fix with these settings."""
    row = FIX_ROWS[choice.name]
    settings = {**row.settings, **choice.settings}
    return next(
        (
            search
            for search in row.searches
            if all(settings[name] in values for name, values in search.where.items())
        ),
        None,
    )


def with_value(choice: Choice, search: Search, value: float) -> Choice:
    """The fix with another value of what is searched."""
    return msgspec.structs.replace(choice, settings={**choice.settings, search.setting: value})
