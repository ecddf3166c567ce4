"""Calibration as a whole, on logs whose truth is known."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions_synthetic import jpeg, synthetic
from halftime.base.errors import BadFile, BadInput
from halftime.report.captions import report_of
from halftime.report.console import print_report
from halftime.report.page import html
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import grouped, read_log


def test_easy_requests_are_found_and_certified() -> None:
    result = calibrate(synthetic(4000), CalibrationSettings())
    assert result.certified
    assert 0.6 < result.small_share < 0.75
    assert result.error is not None
    assert result.error <= 0.02
    assert result.savings == pytest.approx(result.small_share * 0.9)
    easy = next(s for s in result.slices if s.name == "easy")
    assert easy.small_share > 0.9
    random = next(p for p in result.policies if p.name.startswith("at random"))
    assert random.cost == pytest.approx(result.policies[0].cost)
    assert result.policies[0].quality > random.quality
    assert result.oracle_savings > result.savings


def test_the_oracle_sends_what_is_acceptable_and_nothing_else() -> None:
    result = calibrate(synthetic(4000), CalibrationSettings())
    oracle = next(p for p in result.policies if p.name == "oracle")
    assert oracle.error == 0.0
    assert oracle.small_share == result.acceptable_share


def test_too_few_examples_send_everything_to_the_large_model_and_say_how_many_are_needed() -> None:
    result = calibrate(synthetic(300), CalibrationSettings())
    assert not result.certified
    assert result.threshold is None
    assert (result.small_share, result.savings, result.router.threshold) == (0.0, 0.0, None)
    assert "149" in result.why


def test_where_small_is_never_good_enough_nothing_is_certified() -> None:
    assert not calibrate(synthetic(2000, hard=1.0), CalibrationSettings()).certified


def test_where_small_is_always_good_enough_everything_goes_there() -> None:
    result = calibrate(synthetic(2000, hard=0.0, slip=0.0), CalibrationSettings())
    assert result.small_share > 0.95


def test_a_cascade_wins_where_features_tell_nothing_and_the_check_tells_all() -> None:
    log = synthetic(4000, hard=0.0, slip=0.3, check=True)
    result = calibrate(log, CalibrationSettings())
    assert result.mode == "cascade"
    assert result.savings > 0.4
    paid = 0.1 + 0.02 + (1 - result.small_share) * 1.0
    assert result.policies[0].cost == pytest.approx(paid)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"delta": 1.0}, "delta"),
        ({"tolerance": -1.0}, "tol"),
        ({"router_cost": -5.0}, "router_cost is -5"),
        ({"router_cost": float("nan")}, "router_cost is nan"),
        ({"router_seconds": -1.0}, "router_seconds"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_mean_nothing(settings: dict, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        CalibrationSettings(**settings)


def test_a_cascade_needs_checks_and_a_log_needs_requests() -> None:
    with pytest.raises(BadInput, match="check"):
        calibrate(synthetic(400), CalibrationSettings(mode="cascade"))
    with pytest.raises(BadInput, match="40"):
        calibrate(synthetic(39), CalibrationSettings())


@given(st.lists(st.integers(0, 12), min_size=20, max_size=120), st.integers(0, 5))
def test_splits_are_disjoint_whole_and_keep_groups_together(groups: list[int], seed: int) -> None:
    parts = split(groups, (0.35, 0.2, 0.25, 0.2), seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    owners = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, owners)) == len(set(groups))
    alone = one_of_each(parts[0], groups, seed)
    assert sorted(groups[i] for i in alone) == sorted(owners[0])


def test_near_fingerprints_share_a_group() -> None:
    assert grouped([0b0, 0b111, 0b1111, "a", "b", "a"]) == [0, 0, 1, 2, 3, 2]


def line(**changes: object) -> dict:
    return {
        "prompt": "what?",
        "small": {"quality": 1, "cost": 0.1},
        "large": {"quality": 1, "cost": 1},
    } | changes


def test_logs_hold_pictures_by_path_by_url_and_features(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    data = "data:image/jpeg;base64," + base64.b64encode(jpeg(2)).decode()
    lines = [line(image="a.jpg"), line(image=data), line(image="b.jpg"), line()]
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    log = read_log(path)
    assert len(log.rows) == 2
    assert [reason.split(":")[0] for reason in log.left_out] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no request"),
        ("{}", "line 1"),
        ('{"small": 3}', "line 1"),
        ("\x1f\x8bx", "gzip|line 1"),
    ],
)
def test_logs_that_cannot_be_read(tmp_path, text: str, word: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFile, match=word):
        read_log(path)


def test_the_report_draws_certified_and_uncertified(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (4000, 300):
        result = calibrate(synthetic(count, check=True), CalibrationSettings(router_cost=0.001))
        print_report(report_of(result))
        page = html(report_of(result))
        assert "oracle" in capsys.readouterr().out
        assert "<svg" in page
        assert msgspec.json.decode(msgspec.json.encode(result), type=type(result)) == result


@pytest.mark.parametrize("check", [False, True])
def test_the_report_counts_no_cost_that_was_not_given(check: bool) -> None:
    log = synthetic(4000, hard=0.0, slip=0.3, check=True) if check else synthetic(4000)
    unpaid, paid = (
        html(report_of(calibrate(log, CalibrationSettings(router_cost=cost))))
        for cost in (0.0, 0.001)
    )
    assert "own cost was not given" in unpaid
    assert "less what the router" not in unpaid
    assert ("less what the judge costs" in unpaid) == check
    assert "own cost was not given" not in paid
    assert "less what the router" in paid
    assert "where nothing is looked at" in html(
        report_of(calibrate(synthetic(300), CalibrationSettings()))
    )


def test_mistakes_show_pictures_that_stand_beside_the_log(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is called from."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    log = synthetic(4000, slip=0.02)
    rows = tuple(msgspec.structs.replace(row, image="a.jpg") for row in log.rows)
    monkeypatch.chdir("/")
    result = calibrate(replace(log, rows=rows, folder=tmp_path), CalibrationSettings(alpha=0.1))
    assert result.mistakes
    assert all((mistake.image or "").startswith("data:image/png") for mistake in result.mistakes)
    assert result.mistakes[0].image in html(report_of(result))
