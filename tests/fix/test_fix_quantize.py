"""denoiser-quantize and text-quantize: which layers, what is refused, and that they come off."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.base.errors import HalftimeWarning
from halftime.fix import quantize
from halftime.fix.apply import choose, reasons
from halftime.fix.quantize import LEFT_OUT, SCHEMES, quantised_layers
from halftime.fix.table import FIXES
from halftime.pipeline.components import denoisers
from halftime.pipeline.state import quantised_by
from halftime.records.recipe import Choice, Plan
from tiny_pipelines import FAMILIES, PIPELINES

TINY = {**PIPELINES, **FAMILIES}
INT8 = SCHEMES["int8-weight-only"]


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "qwenimage", "sd15"])
def test_first_and_last_layers_norms_and_embeddings_keep_their_precision(name: str) -> None:
    model = denoisers(TINY[name].build())[0]
    names = quantised_layers(model, INT8, least=1)
    assert any(re.search("attn.*to_q", layer) for layer in names)
    forbidden = "embed|norm|^proj_out$|^proj_in$|time"
    assert [layer for layer in names if re.search(forbidden, layer)] == []
    assert all(row.source for row in LEFT_OUT)


def test_narrow_layers_and_those_that_a_scheme_cannot_take_stay() -> None:
    model = nn.ModuleDict({"narrow": nn.Linear(8, 64), "odd": nn.Linear(72, 72)})
    assert quantised_layers(model, INT8, least=16) == ["odd"]
    assert quantised_layers(model, SCHEMES["fp8-dynamic"], least=1) == []


# ---- what is refused


def reason(kind: str, device: str = "cpu", least: int = 8) -> str:
    settings = {"kind": kind, "least_features": least}
    pipeline = PIPELINES["flux"].build()
    fix = FIXES["denoiser-quantize"]
    return str(fix.applies(pipeline, torch.device(device), settings))


@pytest.fixture
def torchao_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(quantize, "_quantise", lambda *_: None)


@pytest.mark.usefixtures("torchao_is_there")
@pytest.mark.parametrize(
    ("kind", "capability", "words"),
    [
        ("fp8-dynamic", (8, 0), "needs compute capability 8.9; this GPU has 8.0"),
        ("fp8-dynamic", None, "needs a CUDA device of compute capability 8.9, and it is on cpu"),
        ("nvfp4-dynamic", (9, 0), "needs compute capability 10.0; this GPU has 9.0"),
        ("int4-weight-only", None, "needs a CUDA device of compute capability 8.0"),
        ("int7", None, "allowed are: int8-weight-only, int8-dynamic"),
    ],
)
def test_what_the_device_lacks_is_said_by_name(
    kind: str,
    capability: tuple[int, int] | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert words in reason(kind, "cuda" if capability else "cpu")


@pytest.mark.usefixtures("torchao_is_there")
def test_a_model_without_wide_layers_is_refused() -> None:
    assert "no linear layer with 4096 features" in reason("int8-dynamic", least=4096)


def test_what_torchao_lacks_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ImportError("Requires mslk >= 1.0.0")

    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(quantize, "_quantise", fail)
    assert "ImportError: Requires mslk" in reason("int8-weight-only")


def test_without_torchao_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    assert "halftime[torchao]" in reason("int8-dynamic")


def test_a_plan_of_an_earlier_version_means_the_same() -> None:
    old = Choice(name="int8-dynamic", settings={"least_features": 64})
    with pytest.warns(HalftimeWarning, match="now 'denoiser-quantize'"):
        (chosen,) = choose(Plan(fixes=(old,)))
    assert chosen.fix.name == "denoiser-quantize"
    assert chosen.settings == {"kind": "int8-dynamic", "least_features": 64}


# ---- with torchao


@pytest.mark.parametrize("kind", ["int8-weight-only", "int8-dynamic", "fp8-weight-only"])
def test_a_quantised_denoiser_draws_nearly_the_same_and_comes_off(kind: str) -> None:
    pytest.importorskip("torchao")
    inductor = pytest.importorskip("torch._inductor").config.save_config()
    pipeline = PIPELINES["flux"].build()
    settings = {"kind": kind, "least_features": 8}
    plain = drawing(lambda: pipeline(**PIPELINES["flux"].arguments()))
    before = fingerprint(pipeline)
    plan = ["denoiser-dtype", Choice(name="denoiser-quantize", settings=settings)]
    for fixes in (plan[1:], plan):
        with halftime.applied(pipeline, fixes):
            assert quantised_by(pipeline.transformer) == "torchao"
            inside = drawing(lambda: pipeline(**PIPELINES["flux"].arguments()))
        assert 0 < np.sqrt(np.mean((inside - plain) ** 2)) / plain.std() < 0.2
        assert changes(before, fingerprint(pipeline)) == []
    assert np.array_equal(drawing(lambda: pipeline(**PIPELINES["flux"].arguments())), plain)
    assert torch._inductor.config.save_config() == inductor


def test_text_encoders_are_quantised_and_come_off() -> None:
    pytest.importorskip("torchao")
    pipeline = PIPELINES["flux"].build()
    before = fingerprint(pipeline)
    plan = [Choice(name="text-quantize", settings={"least_features": 8})]
    with halftime.applied(pipeline, plan):
        assert quantised_by(pipeline.text_encoder_2) == "torchao"
        assert quantised_by(pipeline.transformer) is None
    assert changes(before, fingerprint(pipeline)) == []
    assert "1024 features" in str(reasons(pipeline)["text-quantize"])
