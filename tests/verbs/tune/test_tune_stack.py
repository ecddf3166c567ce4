"""`tune --allow approximate` on today's transformers: cache, compilation, attention and quantised
weights are proposed, join one plan, draw together, and come off exactly."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.fix import compilation
from halftime.fix.base import Settings
from halftime.records.recipe import Choice, Plan
from halftime.verbs.tune.candidates import candidates, combine, conflict_free
from halftime.verbs.tune.decide import Choices
from tiny_pipelines import FAMILIES, PIPELINES

TINY = {**PIPELINES, **FAMILIES}
NAMES = ("flux", "sd3", "wan", "qwenimage")
STACK = ("attention-backend", "denoiser-compile", "step-cache")
CACHES = {"flux": "first-block", "sd3": "mag", "wan": "first-block", "qwenimage": "mag"}


def stack(name: str) -> Choices:
    """One of each lever, joined as the climb joins them."""
    plan: Choices = ()
    for choice in (
        Choice(name="attention-backend", settings={"backend": "math"}),
        Choice(name="denoiser-compile", settings={"region": "blocks", "fullgraph": True}),
        Choice(name="step-cache", settings={"kind": CACHES[name], "threshold": 0.3}),
    ):
        plan, replaced = combine(plan, choice)
        assert replaced == ()
    return plan


@pytest.mark.parametrize("name", NAMES)
def test_every_lever_is_proposed(name: str) -> None:
    choices, _ = candidates(TINY[name].build(), approximate=True)
    proposed = {choice.name for choice in choices}
    assert {*STACK, "guidance-interval"} - proposed <= {"guidance-interval"}
    kinds = {choice.settings["kind"] for choice in choices if choice.name == "step-cache"}
    assert CACHES[name] in kinds
    assert len(kinds) >= 3
    assert any(
        choice.name == "denoiser-compile" and choice.settings.get("region") == "blocks"
        for choice in choices
    )


@pytest.mark.parametrize("name", NAMES)
def test_they_draw_together_and_come_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(function: compilation.Forward, settings: Settings, device: torch.device) -> object:
        return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr(compilation, "compile_with", traced)
    torch._dynamo.reset()
    tiny = TINY[name]
    pipeline = tiny.build()
    plain = drawing(lambda: pipeline(**tiny.arguments(6)))
    before = fingerprint(pipeline)
    plan = stack(name)
    if importlib.util.find_spec("torchao"):
        quantised = Choice(
            name="denoiser-quantize", settings={"kind": "int8-dynamic", "least_features": 8}
        )
        plan = combine(combine(plan, Choice(name="denoiser-dtype"))[0], quantised)[0]
    assert conflict_free(plan)
    with halftime.applied(pipeline, Plan(fixes=plan)):
        for _ in range(2):  # mag measures in the first
            inside = drawing(lambda: pipeline(**tiny.arguments(6)))
    loss = float(np.sqrt(np.mean((inside - plain) ** 2)) / plain.std())
    assert 0 < loss < 0.5
    assert np.array_equal(drawing(lambda: pipeline(**tiny.arguments(6))), plain)
    assert changes(before, fingerprint(pipeline)) == []
    torch._dynamo.reset()
