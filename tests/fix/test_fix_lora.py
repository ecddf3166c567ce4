"""lora-fuse, and adapters that are swapped inside a block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.base.errors import DoesNotApply
from halftime.fix import compilation
from halftime.fix.apply import reasons
from halftime.fix.base import Settings
from halftime.pipeline.components import denoisers
from halftime.records.recipe import Choice
from halftime.upstream import pytorch
from tiny_pipelines import PIPELINES

peft = pytest.importorskip("peft")


def adapted(name: str) -> DiffusionPipeline:
    """A tiny pipeline with a LoRA of random weights on its denoiser's attention."""
    pipeline = PIPELINES[name].build()
    model = denoisers(pipeline)[0]
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(peft.LoraConfig(r=4, target_modules=targets), adapter_name="style")  # type: ignore[operator]
    fill(model, 1)
    return pipeline


def fill(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight, std=0.3)


def draw(name: str, pipeline: DiffusionPipeline, **more: object) -> np.ndarray:
    return drawing(lambda: pipeline(**{**PIPELINES[name].arguments(), **more}))


@pytest.mark.parametrize("name", ["flux", "sd15"])
def test_a_fused_adapter_draws_the_same_and_comes_apart_exactly(name: str) -> None:
    pipeline = adapted(name)
    expected, before = draw(name, pipeline), fingerprint(pipeline)
    with halftime.applied(pipeline, ["lora-fuse"]):
        inside = draw(name, pipeline)
        assert not any("lora" in path for path, _ in denoisers(pipeline)[0].named_parameters())
    assert np.abs(inside - expected).max() < 1e-4
    assert changes(before, fingerprint(pipeline)) == []
    assert np.array_equal(draw(name, pipeline), expected)
    with denoisers_without_adapter(pipeline):
        assert np.abs(draw(name, pipeline) - expected).max() > 1e-3  # else nothing was tried


def denoisers_without_adapter(pipeline: DiffusionPipeline):  # type: ignore[no-untyped-def]
    from contextlib import contextmanager

    @contextmanager
    def off() -> Iterator[None]:
        denoisers(pipeline)[0].disable_adapters()  # type: ignore[operator]
        yield
        denoisers(pipeline)[0].enable_adapters()  # type: ignore[operator]

    return off()


def test_the_strength_of_an_adapter_is_kept() -> None:
    pipeline = adapted("flux")
    pipeline.transformer.set_adapters(["style"], [0.5])
    expected = draw("flux", pipeline)
    with halftime.applied(pipeline, ["lora-fuse"]):
        assert np.abs(draw("flux", pipeline) - expected).max() < 1e-4


def test_a_strength_that_comes_with_the_call_is_refused() -> None:
    pipeline = adapted("flux")
    with halftime.applied(pipeline, ["lora-fuse"]):
        draw("flux", pipeline, joint_attention_kwargs={"scale": 1.0})
        with pytest.raises(DoesNotApply, match=r"scale of 0\.5.*set_adapters"):
            draw("flux", pipeline, joint_attention_kwargs={"scale": 0.5})


def test_without_an_active_adapter_there_is_nothing_to_fuse() -> None:
    pipeline = adapted("flux")
    assert reasons(pipeline)["lora-fuse"] is None
    pipeline.transformer.disable_adapters()
    assert "no adapter" in str(reasons(pipeline)["lora-fuse"])
    pipeline.transformer.enable_adapters()
    pipeline.fuse_lora()
    assert "no adapter" in str(reasons(pipeline)["lora-fuse"])


def test_projections_are_fused_behind_a_fused_adapter() -> None:
    """Alone, fused-qkv would leave the adapter out, and is refused."""
    pipeline = adapted("sd15")
    expected = draw("sd15", pipeline)
    assert "adapter" in str(reasons(pipeline)["fused-qkv"])
    with halftime.applied(pipeline, ["lora-fuse", "fused-qkv"]):
        assert np.abs(draw("sd15", pipeline) - expected).max() < 1e-4
    assert np.array_equal(draw("sd15", pipeline), expected)


# ---- hot-swapping


def another_adapter(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    """A file's worth of another LoRA of the same shape."""
    state = peft.get_peft_model_state_dict(pipeline.transformer, adapter_name="style")
    torch.manual_seed(5)
    return {f"transformer.{name}": 0.3 * torch.randn_like(value) for name, value in state.items()}


def swap(pipeline: DiffusionPipeline, weights: dict[str, Tensor]) -> None:
    pipeline.load_lora_weights(weights, adapter_name="style", hotswap=True)


def test_an_adapter_is_swapped_in_a_compiled_denoiser_without_compiling_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def traced(function: compilation.Forward, settings: Settings, device: torch.device) -> object:
        return torch.compile(function, backend="eager", dynamic=False)

    monkeypatch.setattr(compilation, "compile_with", traced)
    torch._dynamo.reset()
    weights = another_adapter(adapted("flux"))
    pipeline = PIPELINES["flux"].build()
    pipeline.enable_lora_hotswap(target_rank=8)
    pipeline.load_lora_weights(
        {name: value.flip(0) for name, value in weights.items()}, adapter_name="style"
    )
    first = draw("flux", pipeline)
    compiled = Choice(name="denoiser-compile", settings={"freezing": False})
    with halftime.applied(pipeline, [compiled], probe=False):
        assert np.abs(draw("flux", pipeline) - first).max() < 1e-4
        graphs = pytorch.dynamo_counters()["stats"]["unique_graphs"]
        swap(pipeline, weights)
        second = draw("flux", pipeline)
        assert pytorch.dynamo_counters()["stats"]["unique_graphs"] == graphs
    assert np.abs(second - first).max() > 1e-3
    assert np.abs(draw("flux", pipeline) - second).max() < 1e-4  # it stays
    torch._dynamo.reset()


@pytest.mark.parametrize("fix", ["denoiser-dtype", "lora-fuse"])
def test_a_swap_that_a_fix_would_not_see_is_refused(fix: str) -> None:
    pipeline = adapted("flux")
    weights = another_adapter(pipeline)
    expected = draw("flux", pipeline)
    with halftime.applied(pipeline, [fix], probe=False):
        with pytest.raises(DoesNotApply, match=f"hotswap is refused.*{fix}"):
            swap(pipeline, weights)
        with pytest.raises(DoesNotApply, match="load_lora_weights is refused"):
            pipeline.load_lora_weights(weights, adapter_name="two")
    assert np.array_equal(draw("flux", pipeline), expected)


def test_frozen_weights_keep_the_adapter_that_was_compiled_in() -> None:
    pipeline = adapted("flux")
    with (
        halftime.applied(pipeline, ["denoiser-compile"], probe=False),
        pytest.raises(DoesNotApply, match="freezing = false"),
    ):
        swap(pipeline, another_adapter(pipeline))
