"""Pipelines of true geometry with random weights made on the device, and tiny ones for a rehearsal.

Values change no timing, so no hub is needed. A pipeline is the tests' tiny one (its tokenizers,
scheduler and class) with every network replaced by one of the published configuration, which
`halftime forecast` has built in. `benchmarks.gpu.models:sdxl` is a MODEL for every command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import nn

from benchmarks.tables import ROOT
from halftime.pipeline.device import default_device
from halftime.records import Workload
from halftime.verbs.forecast.components import build
from halftime.verbs.forecast.models import Component, resolve
from halftime.verbs.forecast.scenario import ForecastSettings

sys.path.insert(0, str(ROOT / "tests"))  # the tiny pipelines
from tiny_pipelines import FAMILIES, PIPELINES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

REHEARSES = "HALFTIME_GPU_REHEARSAL"  # in the environment of every part, so of what it starts too
_DEVIATION = 0.02  # of the weights: activations stay finite


def rehearses() -> bool:
    return REHEARSES in os.environ


@dataclass(frozen=True)
class GpuModel:
    """One pipeline: whose tiny one it starts from, and what is drawn with it."""

    name: str
    tiny: str  # in tests/tiny_pipelines
    preset: str | None  # of halftime forecast
    width: int
    height: int
    steps: int
    frames: int | None = None
    vae_dtype: torch.dtype = torch.bfloat16
    shift_factor: float | None = None  # of its latents
    projects_text: bool = False  # every CLIP encoder gives a pooled embedding
    weights_bytes: float = 0.0  # at least so much memory: weights, and as much again to work in

    def workload(self) -> Workload:
        if rehearses():
            return Workload(prompts=("a cat",), width=32, height=32, steps=2)
        return Workload(
            prompts=("a red fox in the snow, a photograph",),
            width=self.width,
            height=self.height,
            steps=self.steps,
        )

    def dtype_of(self, role: str) -> torch.dtype:
        """What a network's weights are stored in: as published, but for SDXL's UNet in fp16."""
        return self.vae_dtype if role == "vae" else torch.bfloat16

    def forecast_settings(self) -> ForecastSettings:
        """The call that is measured, true-sized also where it is rehearsed."""
        return ForecastSettings(
            width=self.width,
            height=self.height,
            frames=self.frames,
            steps=self.steps,
            dtype="bf16",
            # SDXL's of fp16 decodes in fp32
            vae_dtype="bf16" if self.vae_dtype is torch.bfloat16 else "fp32",
        )

    def further(self) -> dict[str, object]:
        """Arguments of the call that a workload does not name."""
        return {"num_frames": 9 if rehearses() else self.frames} if self.frames else {}

    def build(self) -> DiffusionPipeline:
        tiny = (PIPELINES | FAMILIES)[self.tiny].build()
        return tiny if rehearses() else _true_sized(tiny, self)


MODELS = {
    model.name: model
    for model in (
        # Its VAE overflows in fp16, so the pipeline casts one of fp16 to fp32 for each decode; one
        # of fp32 it does not hand fp32 latents.
        GpuModel(
            "sdxl", "sdxl", "sdxl", 1024, 1024, 30, vae_dtype=torch.float16, weights_bytes=8e9
        ),
        GpuModel(
            "flux", "flux", "flux-dev", 1024, 1024, 28, shift_factor=0.1159, weights_bytes=34e9
        ),
        GpuModel(
            "sd35",
            "sd3",
            "sd3.5-large",
            1024,
            1024,
            28,
            shift_factor=0.0609,
            projects_text=True,
            weights_bytes=27e9,
        ),
        GpuModel(
            "wan",
            "wan",
            "wan2.1-1.3b",
            832,
            480,
            20,
            frames=81,
            vae_dtype=torch.float32,
            weights_bytes=15e9,
        ),
        GpuModel("qwen", "qwenimage", None, 1024, 1024, 20, weights_bytes=58e9),
    )
}


def sdxl() -> DiffusionPipeline:
    return MODELS["sdxl"].build()


def flux() -> DiffusionPipeline:
    return MODELS["flux"].build()


def sd35() -> DiffusionPipeline:
    return MODELS["sd35"].build()


def wan() -> DiffusionPipeline:
    return MODELS["wan"].build()


def qwen() -> DiffusionPipeline:
    return MODELS["qwen"].build()


def _true_sized(tiny: DiffusionPipeline, model: GpuModel) -> DiffusionPipeline:
    device = default_device()
    modules = dict(_networks(tiny, model))
    # a config's other entries (such as force_zeros_for_empty_prompt) are the constructor's own
    pipeline = type(tiny)(**{**tiny.components, **modules})
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and name not in modules:  # stays tiny
            part.to(model.dtype_of(name))
    for name in ("tokenizer", "tokenizer_2"):
        if (
            getattr(pipeline, name, None) is not None
            and "CLIP" in type(getattr(pipeline, name)).__name__
        ):
            getattr(pipeline, name).model_max_length = 77
    return pipeline.to(device)


def _networks(tiny: DiffusionPipeline, model: GpuModel) -> Iterator[tuple[str, nn.Module]]:
    device = default_device()
    denoiser = "unet" if hasattr(tiny, "unet") else "transformer"
    for component in _components(model, tiny):
        name = denoiser if component.role == "denoiser" else component.name
        dtype = model.dtype_of(component.role)
        module = build(component.library, component.class_name, component.config, dtype)
        yield name, filled(module, device)


def _components(model: GpuModel, tiny: DiffusionPipeline) -> tuple[Component, ...]:
    if model.preset is not None:
        return tuple(_as_in(model, part) for part in resolve(model.preset).components)
    # Qwen-Image: the defaults of its classes are its published configuration. Its text encoder, of
    # 7 billion parameters, stays tiny where the denoiser's input has its width.
    return (
        Component(
            name="denoiser",
            role="denoiser",
            library="diffusers",
            class_name="QwenImageTransformer2DModel",
            config={"joint_attention_dim": tiny.transformer.config.joint_attention_dim},
        ),
        Component(
            name="vae",
            role="vae",
            library="diffusers",
            class_name="AutoencoderKLQwenImage",
            config={},
        ),
    )


def _as_in(model: GpuModel, component: Component) -> Component:
    """A forecast's network as the pipeline needs it: what changes no cost is in no preset."""
    config = dict(component.config)
    if component.role == "vae" and "latent_channels" in config and model.shift_factor is not None:
        config["shift_factor"] = model.shift_factor
    if model.projects_text and component.class_name == "CLIPTextModel":
        kind, further = "CLIPTextModelWithProjection", {"projection_dim": config["hidden_size"]}
        return msgspec.structs.replace(component, class_name=kind, config={**config, **further})
    return msgspec.structs.replace(component, config=config)


def filled(module: nn.Module, device: torch.device) -> nn.Module:
    """A module of the meta device with weights on this one, made there."""
    buffers = {
        name: buffer for name, buffer in module.named_buffers() if not buffer.is_floating_point()
    }
    module = module.to_empty(device=device)
    for sub in module.modules():  # tables that are no buffers, such as rotary frequencies
        for name, value in list(vars(sub).items()):
            if isinstance(value, torch.Tensor) and value.is_meta:
                setattr(sub, name, torch.ones_like(value, device=device))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in buffers:  # positions: 0, 1, 2 …
                tensor.copy_(torch.arange(tensor.numel(), device=device).reshape(tensor.shape))
            elif "norm" in name and name.endswith("weight"):
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, _DEVIATION, generator=generator)
    return module.eval()
