"""Thresholds are found: by bisection, over what the fix's row says, on top of the plan so far."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_tune_search import Played

from halftime.fix.table import FIXES
from halftime.records.fixes import FIX_ROWS
from halftime.records.recipe import Choice
from halftime.verbs.tune.search import Climb, climb
from halftime.verbs.tune.threshold import last_good, search_of, with_value


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_last_good_value_is_found_in_few_questions(count: int, good: int) -> None:
    questions: list[int] = []

    def is_good(value: int) -> bool:
        questions.append(value)
        return value < good

    expected = min(good, count) - 1
    assert last_good(range(count), is_good) == (expected if expected >= 0 else None)
    assert len(questions) <= count.bit_length()


def test_what_is_searched_are_settings_of_the_fix() -> None:
    for row in FIX_ROWS.values():
        for search in row.searches:
            for value in search.values:
                FIXES[row.name].with_defaults({search.setting: value})
            assert [*search.values] == sorted(search.values)
            assert search.where.keys() <= row.settings.keys()


def test_which_setting_is_searched_depends_on_the_kind() -> None:
    kinds = {"first-block": "threshold", "taylorseer": "every", "pyramid-attention": None}
    for kind, setting in kinds.items():
        search = search_of(Choice(name="step-cache", settings={"kind": kind}))
        assert (search and search.setting) == setting
    assert search_of(Choice(name="vae-dtype")) is None


def test_the_climb_measures_a_fix_with_what_was_found_about_it() -> None:
    cache = Choice(name="step-cache", settings={"kind": "first-block"})
    search = search_of(cache)
    assert search is not None
    settled = with_value(cache, search, 0.3)
    played = Played({"step-cache": 1.5})
    tools = played.tools()
    found = climb(Climb(), [cache], replace_settle(tools, lambda plan, choice: settled))
    assert found.plan == (settled,)
    none = climb(Climb(), [cache], replace_settle(tools, lambda plan, choice: None))
    assert none.plan == ()
    assert none.ladder[0].why == "too lossy with every value that was tried"


def replace_settle(tools, settle):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(tools, settle=settle)
