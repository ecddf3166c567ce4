"""vae-dtype and denoiser-dtype: lower precision for one component, its neighbours left as they
are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from halftime.fix.base import (
    FixCode,
    Settings,
    first_reason,
    needs_denoiser,
    needs_vae,
    one_of,
    text,
)
from halftime.fix.undo import casting, replace_tensors, restored
from halftime.pipeline.change import patched, subclassed
from halftime.pipeline.components import denoisers, vae_of
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_ALLOWED = ("bfloat16", "float16", "float32")


@contextmanager
def in_dtype(module: nn.Module, entry: str, dtype: torch.dtype) -> Iterator[None]:
    """The module's weights in `dtype`; the method `entry` casts what comes in, and what goes out
    back."""
    keep = hugging_face.kept_in_fp32(module)
    with restored(module), _outward_dtype(module):
        replace_tensors(module, lambda tensor: tensor.to(dtype), keep)
        with (
            patched(module, entry, casting(getattr(module, entry), dtype)),
            patched(module, "to", _to(module)),
        ):
            yield


@contextmanager
def _outward_dtype(module: nn.Module) -> Iterator[None]:
    """`module.dtype` goes on naming what callers should hand in: pipelines make their latents in
    that dtype."""
    dtype = next(module.parameters()).dtype
    with subclassed(module, {"dtype": property(lambda self: dtype)}):
        yield


def _to(module: nn.Module) -> Callable[..., nn.Module]:
    """`module.to` without its dtype: pipelines that upcast their VAE around an encode would undo
    the fix for good."""
    original = module.to

    def to(*args: object, **kwargs: object) -> nn.Module:
        places = [arg for arg in args if not isinstance(arg, torch.dtype)]
        named = {name: value for name, value in kwargs.items() if name != "dtype"}
        return original(*places, **named) if places or named else module  # type: ignore[call-overload]

    return to


def _applies_to(modules: list[nn.Module], settings: Settings) -> str | None:
    dtype = text(settings, "dtype")
    if modules and all(str(next(m.parameters()).dtype) == f"torch.{dtype}" for m in modules):
        return f"it is {dtype} already"
    return None


def _vae_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    vae = vae_of(pipeline)
    overflow = None
    if text(settings, "dtype") == "float16" and getattr(
        getattr(vae, "config", None), "force_upcast", False
    ):
        overflow = (
            "this VAE overflows in float16 (its config says force_upcast, as SDXL's does); "
            "use bfloat16"
        )
    return first_reason(
        needs_vae(pipeline, device, settings),
        one_of(settings, "dtype", _ALLOWED),
        overflow,
        _applies_to([vae] if vae is not None else [], settings),
    )


@contextmanager
def _vae_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    vae = vae_of(pipeline)
    assert vae is not None
    with (
        in_dtype(vae, "decode", getattr(torch, text(settings, "dtype"))),
        _encode_cast(vae, settings),
    ):
        yield


@contextmanager
def _encode_cast(vae: nn.Module, settings: Settings) -> Iterator[None]:
    # img2img encodes with the same weights; a latent distribution is no tensor, so its result keeps
    # the dtype.
    if not hasattr(vae, "encode"):
        yield
        return
    encode: Callable[..., object] = getattr(vae, "encode")  # noqa: B009 - nn.Module's type makes it a tensor
    dtype = getattr(torch, text(settings, "dtype"))
    with patched(vae, "encode", lambda x, *args, **kwargs: encode(x.to(dtype), *args, **kwargs)):
        yield


def _denoiser_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        one_of(settings, "dtype", _ALLOWED),
        _applies_to(denoisers(pipeline), settings),
    )


@contextmanager
def _denoiser_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    dtype = getattr(torch, text(settings, "dtype"))
    with ExitStack() as stack:
        for module in denoisers(pipeline):
            stack.enter_context(in_dtype(module, "forward", dtype))
        yield


VAE_DTYPE = FixCode(_vae_applies, _vae_apply)
DENOISER_DTYPE = FixCode(_denoiser_applies, _denoiser_apply)
