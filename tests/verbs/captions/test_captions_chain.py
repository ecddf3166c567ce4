"""Three models: whose requests calibrate which router, what the chain costs, and who is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import pytest

from captions_synthetic import certified, chat, jpeg, synthetic
from captions_upstreams import Model, serving
from halftime.base.errors import BadInput
from halftime.base.store import write_json
from halftime.cli import main
from halftime.cli.captions import _between
from halftime.records.captions import Answer, Between, Chain, ChainResult, Check, Logged, Router
from halftime.report.captions import chain_report_of
from halftime.report.markdown import markdown
from halftime.verbs.captions import chain as chaining
from halftime.verbs.captions import learn
from halftime.verbs.captions.app import application
from halftime.verbs.captions.calibrate import CalibrationSettings
from halftime.verbs.captions.chain import _walk, calibrate_chain, leg_log, legs_of
from halftime.verbs.captions.log import Log
from halftime.verbs.captions.passthrough import PassThrough, PassThroughSettings, RoutedModel
from halftime.verbs.captions.routers import read_routers
from halftime.verbs.captions.upstream import Upstream

SETTINGS = CalibrationSettings(alpha=0.08, mode="route")


def three_models(count: int, seed: int = 0) -> Log:
    """A middle model that fails where the second feature is large, half of the time."""
    log = synthetic(count, seed=seed, hard=0.5)
    rng = np.random.default_rng(seed + 50)
    harder = rng.random(count) < 0.2
    log.values[:, 1] += 6.0 * harder
    fails = rng.random(count) < np.where(harder, 0.5, 0.004)
    rows = tuple(
        msgspec.structs.replace(
            row,
            between=(Between(answer=Answer(quality=float(not failed), cost=0.4, seconds=0.4)),),
        )
        for row, failed in zip(log.rows, fails, strict=True)
    )
    return replace(log, rows=rows)


@pytest.fixture(scope="module")
def calibrated() -> tuple[ChainResult, list[tuple[Log, CalibrationSettings]]]:
    """A chain, and the logs that each of its calibrations got."""
    seen: list[tuple[Log, CalibrationSettings]] = []
    plain = chaining.calibrate

    def watched(log: Log, settings: CalibrationSettings):
        seen.append((log, settings))
        return plain(log, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "FEWEST_FOR_TREES", 10**9)  # trees take seconds
        patch.setattr(chaining, "calibrate", watched)
        result = calibrate_chain(three_models(2400), SETTINGS)
    return result, seen


def test_a_chain_is_certified_and_saves_more_than_two_models(calibrated) -> None:
    result, _ = calibrated
    assert result.certified
    assert [leg.certified for leg in result.legs] == [True, True]
    small, middle = result.legs
    assert 0.35 < small.share < 0.6  # the easy half
    assert 0.2 < middle.share < 0.5  # of the others those that are not harder still
    assert result.pair_savings < result.savings < result.oracle_savings
    assert result.savings == pytest.approx(1 - result.policy.cost)  # the large one costs 1
    assert result.error <= SETTINGS.alpha


def test_the_promise_holds_for_other_requests(calibrated) -> None:
    fresh = three_models(4000, seed=7)
    walk = _walk(fresh, calibrated[0].chain.routers, SETTINGS)
    for answered in (*walk.answered, np.sum(walk.answered, axis=0)):
        assert 0 < (answered * (1 - walk.acceptable)).sum() / answered.sum() <= SETTINGS.alpha


def test_each_router_is_proved_on_requests_that_chose_no_router_before_it(calibrated) -> None:
    result, ((first, one), (second, other), (whole, pair)) = calibrated
    names = [{row.id for row in log.rows} for log in (first, second)]
    assert names[0].isdisjoint(names[1])
    assert (one.delta, other.delta) == (SETTINGS.delta / 2, SETTINGS.delta / 2)
    # the second one is asked what the first one leaves over, and learns from that
    over = chaining._left_over(second, result.chain.routers[:1])
    assert over.all()
    assert len(second.rows) < 0.75 * len(first.rows)
    assert {row.small.cost for row in second.rows} == {0.4}
    # the two models alone have the whole log and all of delta
    assert (len(whole.rows), pair.delta) == (2400, SETTINGS.delta)
    assert {row.small.cost for row in whole.rows} == {0.1}


def test_what_the_report_counts_on_calibrated_nothing(calibrated) -> None:
    result, ((first, settings), _, _) = calibrated
    division = chaining.division_of(first, settings)
    assert result.requests == len(division.test)
    assert set(division.test).isdisjoint({*division.fit, *division.proof})


def test_the_report_names_models_and_promise(calibrated) -> None:
    text = markdown(chain_report_of(calibrated[0]))
    assert "A chain of 3 models (" in text
    assert "the small and the large one alone" in text
    assert "Of what the largest model does not answer at most 8.0 % is unacceptable" in text


def test_a_chain_pays_for_every_look_and_every_answer_in_vain() -> None:
    """Two requests by hand: a cascade asks the small model of both; the middle one routes."""
    cascade = certified(0.5, mode="cascade", features=("feature 1", "check"), mean=(0.0, 0.0))
    cascade = msgspec.structs.replace(
        cascade, scale=(10.0, 10.0), weights=(0.0, 10.0), intercept=0.0
    )
    route = certified(0.5, features=("feature 1",), mean=(0.0,), scale=(10.0,), weights=(0.0,))
    rows = tuple(
        Logged(
            small=Answer(quality=1.0, cost=1.0, seconds=1.0),
            check=Check(score=score, cost=0.5, seconds=0.5),
            between=(Between(answer=Answer(quality=0.9, cost=3.0, seconds=3.0)),),
            large=Answer(quality=0.95, cost=10.0, seconds=10.0),
        )
        for score in (5.0, -5.0)
    )
    log = Log(rows, np.zeros((2, 1)), (0, 1))
    settings = replace(SETTINGS, tolerance=0.0, router_cost=0.25, router_seconds=0.01)
    walk = _walk(log, (cascade, route), settings)
    assert [answered.tolist() for answered in walk.answered] == [[1, 0], [0, 1]]
    assert walk.cost.tolist() == [1.0 + 0.5 + 0.25, 1.0 + 0.5 + 0.25 + 3.0 + 0.25]
    assert walk.seconds.tolist() == pytest.approx([1.51, 4.52])
    assert walk.quality.tolist() == [1.0, 0.9]
    assert walk.acceptable.tolist() == [1.0, 0.0]


def test_lines_with_other_models_and_a_chain_that_is_not_dearer_each_time_are_refused() -> None:
    log = three_models(40)
    odd = (msgspec.structs.replace(log.rows[0], between=()), *log.rows[1:])
    with pytest.raises(BadInput, match="lines with 0 and 1 models between"):
        legs_of(replace(log, rows=odd))
    exchanged = tuple(
        msgspec.structs.replace(
            row, small=row.between[0].answer, between=(Between(answer=row.small),)
        )
        for row in log.rows
    )
    with pytest.raises(BadInput, match=r"model 1 of the chain costs 0\.4 .* after it 0\.1"):
        calibrate_chain(replace(log, rows=exchanged), SETTINGS)
    assert leg_log(log, 1).rows[0].small.cost == 0.4


# In front of real models


def asked(
    *routers: Router, dead: str = "", judge=None, **changes: object
) -> tuple[list[str], dict[str, str], PassThrough]:
    """Which of three models was asked about a picture, and the answer's headers."""
    models = [Model(name, status=503 if name == dead else 200) for name in ("s", "m", "l")]
    with (
        serving(models[0]) as small,
        serving(models[1]) as middle,
        serving(models[2]) as large,
    ):
        settings = PassThroughSettings(
            routers[0],
            Upstream("s", small),
            Upstream("l", large),
            shadow=0.0,
            most_seconds=20.0,
            judge=judge,
            between=(RoutedModel(routers[1], Upstream("m", middle), "middle"),),
            **changes,  # type: ignore[arg-type]
        )
        app = application(settings)
        with serving(app) as url:
            answer = httpx2.post(f"{url}/chat/completions", json=chat(jpeg()), timeout=60)
            listed = httpx2.get(f"{url}/models", timeout=60).json()
    assert [model["id"] for model in listed["data"]] == ["captions", "s", "m", "l"]
    assert answer.status_code == 200
    names = [model.name for model in models if model.requests]
    return names, dict(answer.headers), app.state.passthrough


YES, NO, UNPROVED = certified(0.5), certified(0.99), certified(None)


@pytest.mark.parametrize(
    ("routers", "names", "role", "reason"),
    [
        ((YES, YES), ["s"], "small", "acceptable"),
        ((NO, YES), ["m"], "middle", "acceptable"),
        ((UNPROVED, YES), ["m"], "middle", "acceptable"),
        ((NO, NO), ["l"], "large", "threshold"),
        ((NO, UNPROVED), ["l"], "large", "uncertified"),
        ((UNPROVED, UNPROVED), ["l"], "large", "uncertified"),
    ],
)
def test_the_first_model_that_is_certified_for_a_request_answers(
    routers: tuple[Router, Router], names: list[str], role: str, reason: str
) -> None:
    models, headers, passthrough = asked(*routers)
    assert models == names
    assert (headers["x-halftime-route"], headers["x-halftime-reason"]) == (role, reason)
    # each router's share is of the requests that reached it
    reached = [drift._routed for drift in passthrough.drifts]
    assert reached[1] == (1 if routers[1] is not UNPROVED and names != ["s"] else 0)


def test_a_request_whose_model_fails_goes_to_the_large_one() -> None:
    """The middle one's router was certified on what the first one does not send."""
    models, headers, _ = asked(YES, YES, dead="s")
    assert models == ["s", "l"]
    assert (headers["x-halftime-route"], headers["x-halftime-reason"]) == ("large", "failed")


def test_what_the_judge_refuses_goes_on_in_the_chain(tmp_path: Path) -> None:
    width = len(YES.features)
    cascade = msgspec.structs.replace(
        YES,
        mode="cascade",
        features=(*YES.features, "check"),
        mean=(0.0,) * (width + 1),
        scale=(10.0,) * (width + 1),
        weights=(*(0.0,) * width, 30.0),
        intercept=0.0,
    )
    state = tmp_path / "drift"
    models, headers, _ = asked(cascade, YES, judge=lambda *_: -5.0, drift_file=state)
    assert models == ["s", "m"]
    assert headers["x-halftime-route"] == "middle"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drift", "drift.1"]
    models, headers, _ = asked(cascade, YES, judge=lambda *_: 5.0)
    assert (models, headers["x-halftime-route"]) == (["s"], "small")


# The commands


def test_calibrate_writes_a_chain_and_serve_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learn, "FEWEST_FOR_TREES", 10**9)
    log, file = tmp_path / "log.jsonl", tmp_path / "chain.json"
    rows = three_models(900).rows
    log.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    with pytest.raises(SystemExit) as ended:
        main(["captions", "calibrate", str(log), "--alpha", "0.2", "--out", str(file)])
    assert ended.value.code == 0
    assert "A chain of 3 models" in capsys.readouterr().out
    assert json.loads(file.read_text())["alpha"] == 0.2
    assert len(read_routers(file)) == 2


def test_a_file_for_other_models_than_are_named_is_refused(tmp_path: Path) -> None:
    pair, three = tmp_path / "pair.json", tmp_path / "three.json"
    write_json(pair, YES)
    write_json(three, Chain(routers=(YES, NO), alpha=0.02, delta=0.05))
    assert (read_routers(pair), read_routers(three)) == ((YES,), (YES, NO))
    middle = Upstream("m", "http://127.0.0.1:9/v1")
    assert [model.role for model in _between((YES, NO), middle)] == ["middle"]
    assert _between((YES,), None) == ()
    with pytest.raises(BadInput, match="is a chain, and needs --middle URL"):
        _between((YES, NO), None)
    with pytest.raises(BadInput, match="is for two models, and takes no --middle URL"):
        _between((YES,), middle)
    with pytest.raises(BadInput, match="routers for 4 models"):
        _between((YES, NO, NO), middle)
