"""What is seen while a command works: never silence, what is left, and sentences beside the bar."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.progress import Pace, roughly
from halftime.cli.screen import BEAT, beat, progress_bar
from halftime.testing import FakeClock


def pace_on(clock: FakeClock, at_most: float | None = None) -> Pace:
    return Pace(lambda: clock.now, at_most)


def test_what_is_left_is_known_from_the_parts_before() -> None:
    clock = FakeClock()
    pace = pace_on(clock)
    pace("loading", 0, 1)
    clock.advance(5.0)
    assert pace.left() is None
    pace("first call", 0, 7)
    assert pace.left() is None
    clock.advance(9.0)
    pace("warm-up", 1, 7)
    assert pace.line() == "warm-up, 2 of 7: 14 s so far, about 54 s left"
    for index in (2, 3, 4):  # the last three count
        clock.advance(2.0)
        pace("steady run", index, 7)
    assert pace.left() == pytest.approx(6.0)
    clock.advance(1.0)
    assert pace.left() == pytest.approx(5.0)
    clock.advance(100.0)
    assert pace.left() == pytest.approx(2 * 101.0)  # one part is overdue; the others may be, too


def test_another_series_knows_nothing_of_the_one_before() -> None:
    clock = FakeClock()
    pace = pace_on(clock)
    pace("pictures", 0, 24)
    clock.advance(1.0)
    pace("pictures", 1, 24)
    pace("noise floor", 0, 4)
    assert pace.left() is None
    assert pace.line() == "noise floor, 1 of 4: 1 s so far"


def test_a_budget_is_what_is_left_at_most() -> None:
    clock = FakeClock()
    pace = pace_on(clock, at_most=90.0)
    clock.advance(30.0)
    pace("trying vae-dtype", 0, 1)
    assert pace.line() == "trying vae-dtype: 30 s so far, at most 60 s left"


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.integers(0, 20))
def test_what_is_left_is_never_negative(parts: list[float], more: int) -> None:
    clock = FakeClock()
    pace = pace_on(clock)
    total = len(parts) + more + 1
    pace("calls", 0, total)
    for index, seconds in enumerate(parts, 1):
        clock.advance(seconds)
        pace("calls", index, total)
    left = pace.left()
    assert left is not None
    assert 0 <= left <= max(parts) * (total - len(parts)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99.4, "99 s"), (150, "2 min"), (3900, "1 h 5 min")]
)
def test_durations_for_somebody_who_waits(seconds: float, words: str) -> None:
    assert roughly(seconds) == words


def test_a_line_every_ten_seconds_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    clock = FakeClock()
    pace = pace_on(clock)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        clock.advance(seconds)
        waits.append(seconds)
        return len(waits) == 4

    beat(pace, wait)
    assert waits == [BEAT] * 4 == [10.0] * 4
    assert capfd.readouterr().err.splitlines() == [
        f"starting: {seconds} s so far" for seconds in (10, 20, 30)
    ]


def test_short_work_says_nothing_into_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(quiet=False) as progress:
        progress("steps", 1, 2)
        progress.say("kept: vae-dtype")
    assert capfd.readouterr().err == "kept: vae-dtype\n"


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(quiet=True) as progress:
        progress("steps", 1, 2)
        progress.say("kept: vae-dtype")
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_sentence_stands_on_a_line_of_its_own_above_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    long = "kept: openvino [vae]: " + "observed 2.39x on top of the plan so far " * 4
    with progress_bar(quiet=False, at_most=90.0) as progress:
        progress("in turns", 3, 15)
        progress.say(long)
        progress("in turns", 4, 15)
    written = screen.getvalue()
    before, said, after = written.partition(long)
    assert said  # unbroken, and its brackets are no markup
    assert re.search(r"(\n|\r|\x1b\[2K)$", before)  # at the beginning of a cleared line
    assert after.startswith("\n")
    assert "left" in written
    assert "15" in written
