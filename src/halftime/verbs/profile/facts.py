"""What a pipeline is, as far as findings ask: read once, plain data afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch

from halftime.base.environment import instructions
from halftime.pipeline.components import modules_of
from halftime.pipeline.device import device_of, fastest_dtype
from halftime.pipeline.state import active_adapters, unfused_adapter_layers
from halftime.records.stages import place_of
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class ModuleFacts:
    """One neural component."""

    name: str
    part: str  # 'vae', 'denoiser', 'text_encoder' … or its own name where it is not recognised
    dtype: str  # of its floating-point parameters: 'float32', …
    convolutional: bool
    channels_last: bool
    compiled: bool  # what the pipeline calls of it
    compiled_in_vain: bool = False  # what the pipeline does not call of it
    slicing: bool = False  # a VAE that decodes one picture at a time
    tile_side: int = 0  # pixels of the tiles of a VAE that decodes in tiles
    unfused_adapters: tuple[str, ...] = ()
    adapted_share: float = 0.0  # of its weights, the adapters' own
    overflows: bool = False  # in float16, by its own config


@dataclass(frozen=True)
class Facts:
    """A pipeline and the device under it."""

    pipeline: str
    device: str
    scheduler: str
    modules: tuple[ModuleFacts, ...]
    fast_bfloat16: bool  # the device computes it faster than float32
    slow_float16: bool  # the device only emulates it
    wait_policy: str  # OMP_WAIT_POLICY
    fast_float16: bool = False  # the device computes it faster than float32, and no bfloat16

    def of_part(self, part: str) -> tuple[ModuleFacts, ...]:
        """The modules that belong to one part of the ledger."""
        return tuple(module for module in self.modules if module.part == part)


def facts(pipeline: DiffusionPipeline, settings: dict[str, str]) -> Facts:
    """Look at a pipeline without running it."""
    device = device_of(pipeline)
    return Facts(
        pipeline=type(pipeline).__name__,
        device=device.type,
        scheduler=type(getattr(pipeline, "scheduler", None)).__name__,
        modules=tuple(_module(name, module) for name, module in modules_of(pipeline).items()),
        fast_bfloat16=_fast_bfloat16(device),
        slow_float16=device.type == "cpu"
        and not {"avx512_fp16", "amx_fp16", "asimdhp"} & {*instructions()},
        wait_policy=settings.get("OMP_WAIT_POLICY", ""),
        fast_float16=fastest_dtype(device) == "float16",
    )


def _module(name: str, module: torch.nn.Module) -> ModuleFacts:
    weights = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    kernels = [weight for weight in weights if weight.dim() == 4 and weight.shape[-1] > 1]
    home = place_of(name)
    part = home.part if home else name
    compiled = pytorch.is_compiled(module)
    vain = compiled and part == "vae" and not _decodes_compiled(module)
    return ModuleFacts(
        name=name,
        part=part,
        dtype=str(weights[0].dtype).removeprefix("torch.") if weights else "none",
        convolutional=len(kernels) >= 4,
        channels_last=bool(kernels)
        and all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels),
        compiled=(compiled or (part == "vae" and _decodes_compiled(module))) and not vain,
        compiled_in_vain=vain,
        slicing=bool(getattr(module, "use_slicing", False)),
        tile_side=_tile_side(module),
        **_adapters(module),
        overflows=bool(getattr(getattr(module, "config", None), "force_upcast", False)),
    )


def _decodes_compiled(vae: torch.nn.Module) -> bool:
    """Whether what a pipeline calls is compiled: `decode`, or a module within."""
    inside = pytorch.uncompiled(vae)
    return pytorch.is_compiled_function(getattr(inside, "decode", None)) or any(
        map(pytorch.is_compiled, inside.children())
    )


def _tile_side(vae: torch.nn.Module) -> int:
    if not getattr(vae, "use_tiling", False):
        return 0
    sides = [getattr(vae, f"tile_sample_min_{name}", None) for name in ("size", "height", "width")]
    return min((side for side in sides if isinstance(side, int)), default=0)


class _Adapters(TypedDict):
    unfused_adapters: tuple[str, ...]
    adapted_share: float


def _adapters(module: torch.nn.Module) -> _Adapters:
    layers = list(unfused_adapter_layers(module))
    if not layers:
        return _Adapters(unfused_adapters=(), adapted_share=0.0)
    own = sum(
        weight.numel()
        for layer in layers
        for name, weight in layer.named_parameters()
        if not name.startswith("base_layer.")
    )
    total = sum(weight.numel() for weight in module.parameters())
    names = sorted({name for layer in layers for name in active_adapters(layer)})
    return _Adapters(unfused_adapters=tuple(names), adapted_share=own / total)


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return pytorch.has_avx512_bf16() or pytorch.has_amx()
    return fastest_dtype(device) == "bfloat16"
