"""Quantised weights beside a step cache: what one forward is off, against what one step changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import halftime
from fix_cells import changes, fingerprint
from halftime.base.errors import DoesNotApply
from halftime.fix import probe
from halftime.fix.apply import choose
from halftime.fix.base import Settings
from halftime.fix.cache_noise import CARRIED, NoiseFigures, asks, measured
from halftime.fix.step_cache import KINDS, UNETS
from halftime.fix.table import FIXES
from halftime.fix.undo import restored
from halftime.pipeline.components import denoisers
from halftime.records.recipe import Choice, Plan
from tiny_pipelines import PIPELINES

STEPS = 6


def both(kind: str = "taylorseer-lite") -> list[Choice]:
    return [Choice(name="denoiser-quantize"), Choice(name="step-cache", settings={"kind": kind})]


def quantising_with(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """denoiser-quantize, without torchao: every weight is off by so much of itself."""

    @contextmanager
    def apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
        (model,) = denoisers(pipeline)
        generator = torch.Generator().manual_seed(0)
        with restored(model):
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    error = torch.randn(module.weight.shape, generator=generator)
                    module.weight = torch.nn.Parameter(module.weight * (1 + noise * error))
            yield

    fix = replace(FIXES["denoiser-quantize"], apply=apply, applies=lambda *_: None)
    monkeypatch.setitem(FIXES, "denoiser-quantize", fix)
    monkeypatch.setattr(probe, "_PASSED", set())


def test_every_kind_of_cache_says_how_much_of_the_noise_it_carries() -> None:
    assert CARRIED.keys() == {UNETS, *KINDS}


@given(st.sampled_from(sorted(CARRIED)), st.floats(1e-4, 1), st.floats(1e-4, 1))
def test_a_complaint_where_the_noise_that_is_carried_is_as_large_as_the_change(
    kind: str, change: float, noise: float
) -> None:
    words = NoiseFigures(change, noise).complaint(kind)
    assert bool(words) == (CARRIED[kind] * noise >= change)
    if words:
        assert f"{noise:.2g}" in words
        assert f"{change:.2g}" in words
        assert not NoiseFigures(change, noise / 10).complaint(kind) or noise >= change


def test_only_both_together_are_measured() -> None:
    assert asks(choose(Plan(fixes=tuple(both()))))
    assert not any(asks(choose(Plan(fixes=(choice,)))) for choice in both())


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_figures_are_those_of_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan evaluates both prompts one after the other: a change is between steps of one of them."""
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    pipeline(**tiny.arguments(STEPS))
    before = fingerprint(pipeline)
    figures = []
    for noise in (0.0, 1e-3, 1e-2):
        quantising_with(noise, monkeypatch)
        chosen = choose(Plan(fixes=tuple(both("mag"))))
        drawn = lambda: pipeline(**tiny.arguments(STEPS))  # noqa: E731
        ((_, figure),) = measured(pipeline, chosen, drawn)
        figures.append(figure)
    assert figures[0].noise == 0.0
    assert 3 < figures[2].noise / figures[1].noise < 30  # it is proportional
    assert len({figure.change for figure in figures}) == 1
    assert 0 < figures[0].change < 1
    assert changes(before, fingerprint(pipeline)) == []


def test_noise_as_large_as_a_step_is_refused_with_its_figures_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = PIPELINES["flux"].build()
    before = fingerprint(pipeline)
    quantising_with(0.3, monkeypatch)
    with (
        pytest.raises(
            DoesNotApply, match=r"do not go together here: in a call of 28 steps the"
        ) as e,
        halftime.applied(pipeline, both()),
    ):
        raise AssertionError("applied")
    assert "flickers" in str(e.value)
    assert changes(before, fingerprint(pipeline)) == []


def test_little_noise_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = PIPELINES["flux"].build()
    quantising_with(1e-4, monkeypatch)
    with halftime.applied(pipeline, both()):
        pass
    quantising_with(0.3, monkeypatch)  # alone it is a matter of pictures
    with halftime.applied(pipeline, both()[:1]):
        pass
