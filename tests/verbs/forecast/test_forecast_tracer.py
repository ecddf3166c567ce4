"""Traces: parameters against published counts, FLOPs against torch's own counter, bytes and memory
by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from halftime.base.errors import BadInput
from halftime.verbs.forecast.architectures import ALIASES, ARCHITECTURES, canonical
from halftime.verbs.forecast.components import build, forward_of
from halftime.verbs.forecast.geometry import Geometry
from halftime.verbs.forecast.tracer import trace

PUBLISHED = [
    name for name, architecture in ARCHITECTURES.items() if architecture.published_parameters
]
VIDEO = ("wan", "cogvideox", "ltx")


def built(name: str) -> nn.Module:
    architecture = ARCHITECTURES[name]
    return build(architecture.library, architecture.class_name, architecture.config, torch.float16)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.published_parameters is not None
    count = sum(parameter.numel() for parameter in built(name).parameters())
    # One unit in the last published digit: some authors cut, others round.
    unit = 10 ** (
        math.floor(math.log10(architecture.published_parameters)) - architecture.digits + 1
    )
    assert abs(count - architecture.published_parameters) <= unit, (
        count,
        architecture.published_parameters,
        architecture.source,
    )


@pytest.mark.parametrize(
    "name",
    ["sd15_unet", "sd_vae", "clip_l", "sd3_medium", "pixart_sigma", "sana_1600m", "wan21_1_3b"],
)
def test_flops_are_those_of_torchs_counter(name: str) -> None:
    architecture, module = ARCHITECTURES[name], built(name)
    geometry = Geometry(batch=1, width=256, height=256, frames=5 if name.startswith(VIDEO) else 1)
    run = forward_of(architecture.class_name, architecture.role, geometry, torch.float16)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        run(module)
    traced, _ = trace(module, run)
    # torch's counter does not know a 1x1 convolution from another, nor does it count attention
    # otherwise.
    assert traced.flops == pytest.approx(counter.get_total_flops(), rel=1e-9)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def two_layers(rows: int) -> tuple[object, list]:
    with torch.device("meta"):
        module = TwoLayers()
    return trace(module, lambda m: m(torch.empty(rows, 16, device="meta")))


def test_a_small_network_by_hand() -> None:
    traced, ops = two_layers(4)
    assert [op.kind for op in ops] == ["gemm", "pointwise", "gemm"]
    first = ops[0]
    assert (first.m, first.n, first.k) == (4, 32, 16)
    assert first.flops == 2 * 4 * 32 * 16
    assert first.read == 4 * (4 * 16 + 32 * 16 + 32)
    assert first.written == 4 * 4 * 32
    assert traced.parameters == 16 * 32 + 32 + 32 * 8 + 8
    # x, first's output and relu's output live together; relu's and second's as well, but those are
    # smaller.
    assert traced.peak_activation_bytes == 4 * (4 * 16 + 4 * 32 + 4 * 32)
    assert traced.modules == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64))
def test_flops_grow_with_the_batch_and_weights_do_not(rows: int) -> None:
    single, batch = two_layers(1)[0], two_layers(rows)[0]
    assert batch.flops == rows * single.flops
    assert batch.parameters == single.parameters


def test_written_out_attention_has_the_same_flops_and_more_bytes() -> None:
    architecture, module = ARCHITECTURES["sd15_unet"], built("sd15_unet")
    run = forward_of(
        architecture.class_name,
        architecture.role,
        Geometry(batch=2, width=512, height=512),
        torch.float16,
    )
    fused, written = trace(module, run)[0], trace(module, run, attention="math")[0]
    assert fused.flops == written.flops
    assert sum(g.count * (g.read + g.written) for g in written.eager) > 1.5 * sum(
        g.count * (g.read + g.written) for g in fused.eager
    )


def test_names_are_forgiving_and_unknown_classes_are_named() -> None:
    assert canonical("SDXL-UNet") == canonical("sdxl_unet") == "sdxl_unet"
    assert canonical("nothing like it") is None
    assert set(ALIASES.values()) <= set(ARCHITECTURES)
    with pytest.raises(BadInput, match="no class 'NoSuchModel'"):
        build("diffusers", "NoSuchModel", {}, torch.float16)
    with pytest.raises(BadInput, match="does not know the inputs of Strange"):
        forward_of("Strange", "denoiser", Geometry(), torch.float16)
