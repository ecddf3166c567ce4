"""Drift: found soon after it begins, however long all was well, and rarely where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from captions_synthetic import certified
from halftime.base.errors import BadFile
from halftime.verbs.captions.drift import FALSE_ALARMS, Drift, error_detector
from halftime.verbs.captions.journal import Journal


def answers_until_alarm(share: float, before: int, rng: np.random.Generator) -> int:
    detector = error_detector(0.02)
    for failed in rng.random(before) < 0.02:
        detector.add(bool(failed))
    count = 0
    while not detector.add(bool(rng.random() < share)):
        count += 1
    return count


def test_three_times_the_error_is_found_within_500_answers() -> None:
    rng = np.random.default_rng(0)
    delays = [answers_until_alarm(0.06, 1000, rng) for _ in range(40)]
    assert np.mean(delays) <= 350
    assert np.mean(np.asarray(delays) <= 500) >= 0.8


def test_a_long_good_past_delays_no_alarm() -> None:
    rng = np.random.default_rng(0)
    assert answers_until_alarm(0.4, 30_000, rng) <= 40


def test_the_bet_is_fair_while_the_error_is_alpha() -> None:
    """So that the mean time to a false alarm is at least 1 / FALSE_ALARMS, by its definition."""
    factors = error_detector(0.02)
    fair = [
        0.02 * happened + 0.98 * did_not
        for happened, did_not in zip(factors._happened, factors._did_not, strict=True)
    ]
    assert fair == pytest.approx([1.0] * len(fair))
    assert sum(factors._weights) == pytest.approx(1.0)
    assert FALSE_ALARMS == 1e-5


def test_where_nothing_changes_nobody_is_alarmed() -> None:
    drift, rng = Drift(certified()), np.random.default_rng(0)
    for small, failed in zip(rng.random(5000) < 0.7, rng.random(5000) < 0.02, strict=True):
        drift.routed(bool(small))
        drift.judged(not failed)
    assert drift.alarms == []
    assert drift.small_share == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(("small", "word"), [(True, "more requests"), (False, "fewer requests")])
def test_another_share_of_small_requests_is_one_alarm(small: bool, word: str) -> None:
    drift = Drift(certified())
    for _ in range(2000):
        drift.routed(small)
    assert [alarm[: len(word)] for alarm in drift.alarms] == [word]
    assert "the requests have changed. Recalibrate." in drift.alarms[0]


def test_processes_share_judgements_and_alarms(tmp_path: Path) -> None:
    first, second = (Drift(certified(), Journal(tmp_path / "drift", "a router")) for _ in range(2))
    for number in range(40):
        (first, second)[number % 2].judged(acceptable=False)
    assert first.alarmed()
    assert second.alarmed()
    assert first.shadowed == second.shadowed == 40
    assert first.alarms == second.alarms
    later = Drift(certified(), Journal(tmp_path / "drift", "a router"))
    assert later.alarms == first.alarms
    for drift in (first, second, later):
        drift.journal.close()


def test_another_routers_state_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "drift", "a router").close()
    with pytest.raises(BadFile, match="not the drift of this router"):
        Journal(tmp_path / "drift", "another")
    with pytest.raises(BadFile, match="cannot use"):
        Journal(tmp_path, "a router")
