"""Calibration as a whole, on logs whose truth is known."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions_synthetic import jpeg, synthetic
from halftime.base.errors import BadFile, BadInput
from halftime.records.captions import CaptionsResult, NeverSmall, Router
from halftime.report.captions import report_of
from halftime.report.console import print_report
from halftime.report.page import html
from halftime.verbs.captions import calibrate as calibrating
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate, power_of, values_of
from halftime.verbs.captions.choices import scores_of, sent, thresholds_of
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import Log, read_log
from halftime.verbs.captions.router import decide


@pytest.fixture(scope="module")
def easy_result() -> CaptionsResult:
    return calibrate(synthetic(2500), CalibrationSettings())


@pytest.fixture(scope="module")
def checked_result() -> CaptionsResult:
    """Of a log whose features tell nothing, and whose check tells all."""
    return calibrate(synthetic(2500, hard=0.0, slip=0.3, check=True), CalibrationSettings())


@pytest.fixture(scope="module")
def refused_result() -> CaptionsResult:
    return calibrate(synthetic(150, check=True), CalibrationSettings())


def test_easy_requests_are_found_and_certified(easy_result: CaptionsResult) -> None:
    result = easy_result
    assert result.certified
    assert 0.55 < result.small_share < 0.8
    assert result.error is not None
    assert result.error <= 0.03
    assert result.savings == pytest.approx(result.small_share * 0.9)
    easy = next(s for s in result.slices if s.name == "easy")
    assert easy.small_share > 0.85
    random = next(p for p in result.policies if p.name.startswith("at random"))
    assert random.cost == pytest.approx(result.policies[0].cost)
    assert result.policies[0].quality > random.quality
    assert result.oracle_savings > result.savings
    assert result.power is not None
    assert result.requests["certificate"] == result.power.draws


def test_the_oracle_sends_what_is_acceptable_and_nothing_else(easy_result: CaptionsResult) -> None:
    oracle = next(p for p in easy_result.policies if p.name == "oracle")
    assert oracle.error == 0.0
    assert oracle.small_share == easy_result.acceptable_share


def test_the_live_router_decides_as_the_calibration_counted(
    easy_result: CaptionsResult, checked_result: CaptionsResult
) -> None:
    for result, log in (
        (easy_result, synthetic(2500)),
        (checked_result, synthetic(2500, hard=0.0, slip=0.3, check=True)),
    ):
        values, _ = values_of(result.mode, log)
        again = msgspec.json.decode(msgspec.json.encode(result.router), type=Router)
        small = []
        for row in values[:300].tolist():
            look = row[:-1] if result.mode == "cascade" else row
            decision = decide(again, look)
            small.append(decide(again, row).small if decision.reason == "ask" else decision.small)
        thresholds = thresholds_of(result.router)
        counted = sent(scores_of(result.router, values[:300]), thresholds, result.mode == "cascade")
        assert small == (counted.small > 0).tolist()
        assert any(small)
        assert not all(small)


def test_too_few_examples_send_everything_to_the_large_model_and_say_how_many_are_needed(
    refused_result: CaptionsResult,
) -> None:
    result = refused_result
    assert not result.certified
    assert result.threshold is None
    assert (result.small_share, result.savings, result.router.threshold) == (0.0, 0.0, None)
    assert "149" in result.why
    assert "150 requests of 150 different pictures" in result.why


def test_a_log_of_few_pictures_is_refused_before_anything_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrating, "learned", lambda *_: pytest.fail("it learned"))
    log = synthetic(1000)
    few = replace(log, groups=tuple(number // 100 for number in range(1000)))
    assert power_of(few, CalibrationSettings()).why_few
    result = calibrate(few, CalibrationSettings())
    assert "1,000 requests show 10 different pictures" in result.why


def test_a_camera_that_always_fails_breaks_no_certificate() -> None:
    """It has 6 % of the requests and looks like easy ones: with families counted once, and whole
    in one split, it was certified."""
    log, rng = synthetic(2500, hard=0.0, slip=0.002), np.random.default_rng(0)
    camera = rng.random(2500) < 0.06
    rows = tuple(
        msgspec.structs.replace(row, small=msgspec.structs.replace(row.small, quality=0.0))
        if fails
        else row
        for row, fails in zip(log.rows, camera, strict=True)
    )
    values = np.where(camera[:, None], 0.1 * log.values, log.values)
    groups = tuple(np.where(camera, 0, 1 + np.arange(2500)).tolist())
    result = calibrate(Log(rows, values, groups), CalibrationSettings())
    assert result.families is not None
    assert result.families.recurring == 1
    small = sent(scores_of(result.router, values), thresholds_of(result.router), cascade=False)
    assert not result.certified or (small.small * camera).sum() <= 0.02 * small.small.sum()


def test_a_small_model_that_costs_more_is_said_and_refused() -> None:
    log = synthetic(100)
    dear = tuple(
        msgspec.structs.replace(row, small=msgspec.structs.replace(row.small, cost=1.5))
        for row in log.rows
    )
    with pytest.raises(BadInput, match=r"small model costs 1\.5 .* and the large one 1, "):
        calibrate(replace(log, rows=dear), CalibrationSettings())


def test_what_a_rule_bars_is_proved_and_counted_as_large() -> None:
    rule = NeverSmall(name="excited", prompt="!!!!!!!!!!")
    ruled = CalibrationSettings(never_small=(rule,))
    result = calibrate(synthetic(2000, hard=0.0, slip=0.0), ruled)
    assert result.certified
    assert 0.4 < result.small_share < 0.6
    assert result.router.never_small == (rule,)
    sized = CalibrationSettings(never_small=(NeverSmall(name="big", pixels_above=1.0),))
    log = synthetic(100)
    with pytest.raises(BadInput, match="'big' goes by the picture's pixels"):
        calibrate(replace(log, values=log.values[:, :5]), sized)


def test_where_small_is_never_good_enough_nothing_is_certified() -> None:
    assert not calibrate(synthetic(600, hard=1.0), CalibrationSettings()).certified


def test_where_small_is_always_good_enough_everything_goes_there() -> None:
    result = calibrate(synthetic(600, hard=0.0, slip=0.0), CalibrationSettings())
    assert result.small_share > 0.95


def test_a_cascade_wins_where_features_tell_nothing_and_the_check_tells_all(
    checked_result: CaptionsResult,
) -> None:
    result = checked_result
    assert result.mode == "cascade"
    assert result.savings > 0.4
    checked, small = result.checked_share, result.small_share
    assert checked > 0.9
    most = 0.1 + 0.02 * checked + (1 - small) * 1.0
    assert most - 0.1 * (1 - checked) <= result.policies[0].cost <= most + 1e-9


@pytest.mark.parametrize(
    ("values", "word"),
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
def test_settings_that_mean_nothing(values: dict, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        CalibrationSettings(**values)


def test_a_cascade_needs_checks_and_a_log_needs_requests() -> None:
    with pytest.raises(BadInput, match="check"):
        calibrate(synthetic(400), CalibrationSettings(mode="cascade"))
    with pytest.raises(BadInput, match="40"):
        calibrate(synthetic(39), CalibrationSettings())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), min_size=20, max_size=120), st.integers(0, 5))
def test_splits_are_disjoint_whole_and_keep_groups_together(groups: list[int], seed: int) -> None:
    parts = split(groups, (0.35, 0.2, 0.25, 0.2), seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    owners = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, owners)) == len(set(groups))


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


def test_a_row_without_an_id_is_a_family_of_its_own(tmp_path) -> None:
    rows = [line(features=[float(number)]) for number in range(4)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_log(tmp_path / "log.jsonl").groups == (0, 1, 2, 3)


def test_the_report_draws_certified_and_uncertified(
    checked_result: CaptionsResult,
    refused_result: CaptionsResult,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for result in (checked_result, refused_result):
        print_report(report_of(result))
        page = html(report_of(result))
        assert "oracle" in capsys.readouterr().out
        assert "<svg" in page
        assert msgspec.json.decode(msgspec.json.encode(result), type=type(result)) == result
        assert "The promise is per request" in page


def test_the_report_counts_no_cost_that_was_not_given(
    easy_result: CaptionsResult, checked_result: CaptionsResult, refused_result: CaptionsResult
) -> None:
    for result in (easy_result, checked_result):
        paid = html(report_of(msgspec.structs.replace(result, router_cost=0.001)))
        unpaid = html(report_of(result))
        assert "own cost was not given" in unpaid
        assert "less what the router" not in unpaid
        assert ("less what the judge costs" in unpaid) == (result.mode == "cascade")
        assert "own cost was not given" not in paid
        assert "less what the router" in paid
    assert "where nothing is looked at" in html(report_of(refused_result))


def test_mistakes_show_pictures_that_stand_beside_the_log(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is called from."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    log = synthetic(1500, slip=0.03)
    rows = tuple(msgspec.structs.replace(row, image="a.jpg") for row in log.rows)
    monkeypatch.chdir("/")
    result = calibrate(replace(log, rows=rows, folder=tmp_path), CalibrationSettings(alpha=0.1))
    assert result.mistakes
    assert all((mistake.image or "").startswith("data:image/png") for mistake in result.mistakes)
    assert result.mistakes[0].image in html(report_of(result))
