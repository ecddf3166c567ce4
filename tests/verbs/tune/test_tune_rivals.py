"""Where a runtime has the denoiser, what it excludes is stacked without it: both are compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from test_tune_search import OPENVINO, OPENVINO_VAE, SESSION, Played

from halftime.records.recipe import Choice, Rung
from halftime.testing import FakeClock
from halftime.verbs.tune import climber
from halftime.verbs.tune.approximate import Approximation
from halftime.verbs.tune.climber import Climber
from halftime.verbs.tune.decide import Budget, Choices, Goal
from halftime.verbs.tune.pace import CallPace
from halftime.verbs.tune.rivals import barred, takes_over
from halftime.verbs.tune.search import Climb

BLOCKS = Choice(name="denoiser-compile", settings={"region": "blocks"})
CACHE = Choice(name="step-cache", settings={"kind": "taylorseer-lite"})
QUANTISED = Choice(name="denoiser-quantize", settings={"kind": "int8-dynamic"})
QUIET = Choice(name="progress-bar-off")


def test_what_a_runtime_excludes_is_barred_on_its_own_components_alone() -> None:
    choices = [BLOCKS, CACHE, QUANTISED, QUIET]
    assert barred((OPENVINO,), choices) == [BLOCKS, CACHE, QUANTISED]
    assert barred((OPENVINO_VAE,), choices) == []
    assert barred((QUIET,), choices) == []
    assert takes_over(OPENVINO)
    assert takes_over(Choice(name="loop-graph"))
    assert not takes_over(BLOCKS)


class PlayedClimber(Climber):
    """Timings from a table; every picture is near enough."""

    def drop_culprits(self, search: Climb, pictures: object) -> None:
        pass


class PlayedApproximation(Approximation):
    """No value is searched, and no loss measured."""

    def _climb_within_loss(self, search, choices, session, pictures) -> None:  # type: ignore[no-untyped-def]
        self.climber.climb(search, choices, session)


def compared(speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Climb:
    """The climb with OpenVINO, after the rival stack of compilation and a cache."""
    played = Played(speeds)
    monkeypatch.setattr(climber, "candidates", lambda *_: ([OPENVINO, BLOCKS, QUIET], []))
    measurements = SimpleNamespace(
        trial=played.measure,
        is_measured=lambda incumbent, plan: False,
        bench=SimpleNamespace(start=(), memory=None, pipeline=None),
        workload=SimpleNamespace(steps=30),
        budget=Budget(1e6, lambda: FakeClock().now),
        state=SimpleNamespace(partial=SimpleNamespace(trials=())),
    )
    silent = lambda *_: None  # noqa: E731
    played_climber = PlayedClimber(measurements, Goal(), CallPace(measurements), silent, silent)  # type: ignore[arg-type]
    approximation = PlayedApproximation(played_climber, loss=0.1)
    plan: Choices = (OPENVINO,)
    kept = Rung(fix="openvino", level="equivalent", settings=OPENVINO.settings, kept=True)
    search = Climb(plan, [kept], 1 / speeds["openvino"], speeds["openvino"])
    approximation.rival_stack(search, [CACHE], SESSION, None)  # type: ignore[arg-type]
    return search


def test_a_stack_that_is_faster_than_the_runtime_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each alone is less than OpenVINO, both together are more."""
    speeds = {"openvino": 2.2, "denoiser-compile": 1.6, "step-cache": 1.7}
    search = compared(speeds, monkeypatch)
    assert {choice.name for choice in search.plan} == {"denoiser-compile", "step-cache"}
    assert search.speedup == pytest.approx(1.6 * 1.7)
    kept = {rung.fix: rung.kept for rung in search.ladder}
    assert kept["openvino"] is False
    assert kept["denoiser-compile"] is kept["step-cache"] is True
    assert "without runtimes was 1.24x as fast" in search.ladder[0].why


def test_a_runtime_that_is_faster_than_the_stack_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"openvino": 4.0, "denoiser-compile": 1.6, "step-cache": 1.7}
    search = compared(speeds, monkeypatch)
    assert search.plan == (OPENVINO,)
    assert search.speedup == 4.0
    kept = {rung.fix: rung.kept for rung in search.ladder}
    assert kept["openvino"] is True
    assert kept["denoiser-compile"] is kept["step-cache"] is False
    dropped = next(rung for rung in search.ladder if rung.fix == "step-cache")
    assert "0.68x of the speed with runtimes" in dropped.why


def test_the_climb_keeps_a_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache on top of compiled blocks: both stay, with what each brought."""
    search = compared({"openvino": 1.1, "denoiser-compile": 1.5, "step-cache": 1.8}, monkeypatch)
    gains = {rung.fix: rung.gain for rung in search.ladder if rung.kept}
    assert gains == {
        "step-cache": pytest.approx(1.8),
        "denoiser-compile": pytest.approx(1.5),
    }
