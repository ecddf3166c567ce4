"""vae-compile and denoiser-compile: torch.compile, whole or by repeated blocks, with frozen weights
on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from halftime.fix.artefacts import keeping
from halftime.fix.base import (
    FixCode,
    Settings,
    first_reason,
    needs_denoiser,
    needs_vae,
    one_of,
    text,
)
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers, vae_of
from halftime.records.fixes import FIX_ROWS
from halftime.upstream import diffusers_caches, hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Forward = Callable[..., object]
_CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
_MODES = ("default", *_CUDA_GRAPH_MODES, "max-autotune-no-cudagraphs")
# What diffusers' guide to fast inference sets for UNets and VAEs (docs/source/en/tutorials/
# fast_diffusion.md), here for what is compiled alone and not for the process.
_CONV_FLAGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}
DEFAULTS: Settings = FIX_ROWS["denoiser-compile"].settings


def compile_options(settings: Settings, device: torch.device) -> dict[str, object]:
    """Keyword arguments of torch.compile. `mode` and `options` exclude each other, so a mode
    becomes its options."""
    options: dict[str, object] = {}
    if settings["mode"] != "default":
        options.update(pytorch.mode_options(text(settings, "mode")))
    if settings["freezing"] and device.type == "cpu":
        options["freezing"] = True
    if settings.get("conv_flags"):
        options.update(_CONV_FLAGS)
    if keeping() and device.type == "cpu":
        # Precompiled headers are made even where no kernel is compiled: 5 s of each start for
        # nothing.
        options["cpp_cache_precompile_headers"] = False
    chosen: dict[str, object] = {
        "fullgraph": bool(settings["fullgraph"]),
        "dynamic": bool(settings["dynamic"]),
    }
    return chosen | ({"options": options} if options else {})


def compile_with(function: Forward, settings: Settings, device: torch.device) -> Forward:
    """torch.compile with these settings."""
    return torch.compile(function, **compile_options(settings, device))  # type: ignore[call-overload, no-any-return]


@contextmanager
def compiled(holder: nn.Module, entry: str, settings: Settings) -> Iterator[None]:
    """`holder.entry` compiled; its results are copied where a CUDA graph would overwrite them."""
    device = next(holder.parameters()).device
    function = compile_with(getattr(holder, entry), settings, device)
    with patched(holder, entry, _outlasting(function) if graphed(settings, device) else function):
        yield


def graphed(settings: Settings, device: torch.device) -> bool:
    """Whether Inductor captures CUDA graphs with these settings."""
    return device.type == "cuda" and settings["mode"] in _CUDA_GRAPH_MODES


def _outlasting(function: Forward) -> Forward:
    """The function, whose results outlast its next call.

    A CUDA graph writes each result where it wrote the last. Pipelines that evaluate the prompt and
    the negative prompt one after the other would subtract the second from itself.
    """

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        torch.compiler.cudagraph_mark_step_begin()
        return pytorch.tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf,
            function(*args, **kwargs),
        )

    return call


@contextmanager
def _denoiser_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        for module in denoisers(pipeline):
            if settings["region"] == "whole":
                stack.enter_context(compiled(module, "forward", settings))
            else:
                stack.enter_context(_blocks_compiled(module, settings))
        yield


@contextmanager
def _blocks_compiled(module: nn.Module, settings: Settings) -> Iterator[None]:
    """Each repeated block's forward compiled, and not its call: diffusers' hooks on it (a cache)
    then stay outside of what is compiled. Only what leaves the last block needs to be copied."""
    device = next(module.parameters()).device
    with ExitStack() as stack:
        for block in _repeated(module):
            function = compile_with(block.forward, settings, device)
            stack.enter_context(patched(block, "forward", function))
        if graphed(settings, device):
            stack.enter_context(patched(module, "forward", _outlasting(module.forward)))
        yield


@contextmanager
def _vae_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    vae = vae_of(pipeline)
    assert vae is not None
    decoder = getattr(vae, "decoder", None)
    holder, entry = (decoder, "forward") if isinstance(decoder, nn.Module) else (vae, "decode")
    with compiled(holder, entry, settings):
        yield


def _repeated(module: nn.Module) -> list[nn.Module]:
    """The blocks that a model is made of many times: as its class names them, or else (SD 3) those
    that diffusers' caches know."""
    return hugging_face.repeated_blocks(module) or diffusers_caches.transformer_blocks(module)


def _works(settings: Settings, device: torch.device) -> str | None:
    if settings["conv_flags"] and device.type != "cuda":
        return f"conv_flags tune kernels for CUDA, and the pipeline is on {device}"
    if not pytorch.can_compile():
        return "torch.compile does not work with this Python and torch"
    return first_reason(
        one_of(settings, "mode", _MODES), one_of(settings, "region", ("whole", "blocks"))
    )


def _denoiser_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    reason = first_reason(needs_denoiser(pipeline, device, settings), _works(settings, device))
    if (
        reason is None
        and settings["region"] == "blocks"
        and not all(map(_repeated, denoisers(pipeline)))
    ):
        return "its denoiser names no repeated blocks; use region = 'whole'"
    return reason


def _vae_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    reason = first_reason(needs_vae(pipeline, device, settings), _works(settings, device))
    if reason is None and settings["region"] == "blocks":
        return "a VAE is compiled whole; leave region out"
    return reason


VAE_COMPILE = FixCode(_vae_applies, _vae_apply)
DENOISER_COMPILE = FixCode(_denoiser_applies, _denoiser_apply)
