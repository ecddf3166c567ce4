"""What a pipeline is, as far as findings ask: read once, plain data afterwards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from halftime.base.environment import instructions
from halftime.pipeline.components import modules_of, pipelines_of
from halftime.pipeline.device import device_of, fastest_dtype, overflows_in_float16
from halftime.pipeline.state import adapter_layers, quantised_by, working_adapters
from halftime.records.stages import place_of
from halftime.upstream import diffusers_caches, hugging_face, pytorch

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
    compiled: bool
    compiled_whole: bool = False  # its own call is compiled, and nothing inside of it
    compiled_methods: tuple[str, ...] = ()  # those in whose place a compiled function stands
    slicing: bool = False  # a VAE that decodes a batch one by one
    upcasts: bool = False  # a VAE in fp16 that is cast to fp32 in every call
    old_attention: str = ""  # the class of a processor from before fused attention
    adapters: tuple[str, ...] = ()  # active and not fused
    adapted_layers: int = 0
    decoder_channels: int = 0  # of a VAE's widest tensors in the size of the picture
    overflows: bool = False  # in float16, by its own config
    compiled_elsewhere: bool = False  # it is not, and an object that compiles it exists
    transformer: bool = False  # a denoiser of attention blocks, without a UNet's
    cached: bool = False  # one of diffusers' step caches is on
    quantised: str = ""  # the library that holds its weights in fewer bits
    attention_backend: str = ""  # of diffusers' names; '' where it has none of its own
    parameters: int = 0


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
    free_bytes: int | None = None  # of the device's memory
    weight_bytes: int = 0  # of all modules
    cachable: bool = False  # it tells caches which evaluation is which, as step caches need

    def of_part(self, part: str) -> tuple[ModuleFacts, ...]:
        """The modules that belong to one part of the ledger."""
        return tuple(module for module in self.modules if module.part == part)


def facts(pipeline: DiffusionPipeline, settings: dict[str, str]) -> Facts:
    """Look at a pipeline without running it."""
    device = device_of(pipeline)
    wrapped = pytorch.wrapped_modules()
    upcasts = any(map(hugging_face.upcasts_vae, pipelines_of(pipeline)))
    return Facts(
        pipeline=type(pipeline).__name__,
        device=device.type,
        scheduler=type(getattr(pipeline, "scheduler", None)).__name__,
        modules=tuple(
            _module(name, module, wrapped, upcasts) for name, module in modules_of(pipeline).items()
        ),
        fast_bfloat16=_fast_bfloat16(device),
        slow_float16=device.type == "cpu"
        and not {"avx512_fp16", "amx_fp16", "asimdhp"} & {*instructions()},
        wait_policy=settings.get("OMP_WAIT_POLICY", ""),
        fast_float16=fastest_dtype(device) == "float16",
        free_bytes=_free_bytes(device),
        weight_bytes=sum(
            weight.nbytes
            for module in modules_of(pipeline).values()
            for weight in module.parameters()
        ),
        cachable=hugging_face.sets_cache_contexts(pipeline),
    )


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def _module(
    name: str, module: torch.nn.Module, wrapped: Collection[int], upcasts: bool
) -> ModuleFacts:
    weights = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    kernels = [weight for weight in weights if weight.dim() == 4 and weight.shape[-1] > 1]
    home = place_of(name)
    dtype = str(weights[0].dtype).removeprefix("torch.") if weights else "none"
    overflows = overflows_in_float16(module)
    config = getattr(module, "config", None)
    channels = tuple(getattr(config, "block_out_channels", None) or ())
    return ModuleFacts(
        name=name,
        part=home.part if home else name,
        dtype=dtype,
        convolutional=len(kernels) >= 4,
        channels_last=bool(kernels)
        and all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels),
        compiled=pytorch.is_compiled(module),
        overflows=overflows,
        compiled_whole=pytorch.is_compiled_whole(module),
        compiled_methods=pytorch.compiled_methods(module),
        slicing=bool(getattr(module, "use_slicing", False)),
        upcasts=upcasts and dtype == "float16" and overflows,
        old_attention=_old_attention(module),
        adapters=working_adapters(module),
        adapted_layers=sum(1 for _ in adapter_layers(module)),
        compiled_elsewhere=not pytorch.is_compiled(module) and id(module) in wrapped,
        transformer=home is not None and home.part == "denoiser" and _is_transformer(module),
        cached=hugging_face.has_step_cache(module),
        quantised=quantised_by(module) or "",
        attention_backend=hugging_face.attention_backend(module),
        parameters=sum(weight.numel() for weight in module.parameters()),
        decoder_channels=channels[min(1, len(channels) - 1)] if channels else 0,
    )


def _is_transformer(module: torch.nn.Module) -> bool:
    return not hasattr(module, "down_blocks") and bool(
        diffusers_caches.transformer_blocks(pytorch.uncompiled(module))
    )


# Classes of attention processors of diffusers that do not go through torch's fused attention.
_OLD_PROCESSORS = {
    "AttnProcessor",
    "AttnAddedKVProcessor",
    "CustomDiffusionAttnProcessor",
    "SlicedAttnProcessor",
    "SlicedAttnAddedKVProcessor",
}


def _old_attention(module: torch.nn.Module) -> str:
    names = {type(getattr(part, "processor", None)).__name__ for part in module.modules()}
    return next(iter(sorted(names & _OLD_PROCESSORS, reverse=True)), "")


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return pytorch.has_avx512_bf16() or pytorch.has_amx()
    return fastest_dtype(device) == "bfloat16"
