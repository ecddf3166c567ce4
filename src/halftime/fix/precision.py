"""vae-dtype and denoiser-dtype: lower precision for one component, its neighbours left as they
are."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.fix.base import (
    FixCode,
    Settings,
    first_reason,
    needs_denoiser,
    needs_vae,
    one_of,
    text,
)
from halftime.fix.undo import cast, casting, replace_tensors, restored
from halftime.pipeline.change import patched, subclassed
from halftime.pipeline.components import denoisers, vae_of
from halftime.pipeline.device import device_of, fastest_dtype, overflows_in_float16
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_ALLOWED = ("fastest", "bfloat16", "float16", "float32")
_ENCODING = ("encoder", "quant_conv")  # what of a VAE only `encode` runs, by diffusers' names


def dtype_of(settings: Settings, modules: list[nn.Module], device: torch.device) -> str:
    """The dtype that the settings name; 'fastest' is the device's, without one that overflows."""
    dtype = text(settings, "dtype")
    overflows = any(map(overflows_in_float16, modules))
    return fastest_dtype(device, overflows=overflows) if dtype == "fastest" else dtype


@contextmanager
def in_dtype(
    module: nn.Module, entry: str, dtype: torch.dtype, keep: tuple[str, ...] = ()
) -> Iterator[None]:
    """The module's weights in `dtype`, but for submodules named in `keep`; the method `entry` casts
    what comes in, and what goes out back."""
    inside = _Inside()
    with restored(module), _outward_dtype(module, inside, dtype):
        unchanged = (*hugging_face.kept_in_fp32(module), *keep)
        replace_tensors(module, lambda tensor: tensor.to(dtype), unchanged)
        entered = inside.during(getattr(module, entry))
        timesteps = hugging_face.computes_in_dtype_of_timestep(module)
        with (
            patched(module, entry, casting(entered, dtype, places=timesteps)),
            patched(module, "to", _to(module)),
        ):
            yield


@dataclass
class _Inside:
    """How deep in its own method a module is: there it must see the dtype that its weights have."""

    depth: int = 0

    def during(self, method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)
        def call(*args: object, **kwargs: object) -> object:
            self.depth += 1
            try:
                return method(*args, **kwargs)
            finally:
                self.depth -= 1

        return call


@contextmanager
def _outward_dtype(module: nn.Module, inside: _Inside, computing: torch.dtype) -> Iterator[None]:
    """`module.dtype` goes on naming what callers should hand in: pipelines make their latents in
    that dtype. The module itself, which casts its embeddings to it, sees what it computes in."""
    outward = next(module.parameters()).dtype
    dtype = property(lambda self: computing if inside.depth else outward)
    with subclassed(module, {"dtype": dtype}):
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


def _applies_to(modules: list[nn.Module], settings: Settings, device: torch.device) -> str | None:
    dtype = dtype_of(settings, modules, device)
    if dtype == "float32" and text(settings, "dtype") == "fastest":
        return (
            "this device computes in no other dtype faster, or in float16 alone, in which this "
            "component overflows (its config says force_upcast)"
        )
    if modules and all(str(next(m.parameters()).dtype) == f"torch.{dtype}" for m in modules):
        return f"it is {dtype} already"
    return None


def _vae_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    vae = vae_of(pipeline)
    overflow = None
    if text(settings, "dtype") == "float16" and vae is not None and overflows_in_float16(vae):
        overflow = (
            "this VAE overflows in float16 (its config says force_upcast, as SDXL's does); "
            "use bfloat16"
        )
    return first_reason(
        needs_vae(pipeline, device, settings),
        one_of(settings, "dtype", _ALLOWED),
        overflow,
        _applies_to([vae] if vae is not None else [], settings, device),
    )


@contextmanager
def _vae_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    vae = vae_of(pipeline)
    assert vae is not None
    dtype = getattr(torch, dtype_of(settings, [vae], device_of(pipeline)))
    if _encodes_exactly(vae):
        with in_dtype(vae, "decode", dtype, keep=_ENCODING):
            yield
    else:
        with in_dtype(vae, "decode", dtype), _encode_cast(vae, dtype):
            yield


def _encodes_exactly(vae: nn.Module) -> bool:
    """Whether its encoder can stay as it is, so that a picture's latents do: it has one of its own,
    in float32. Pipelines upcast any other one themselves around an encode."""
    encoder = getattr(vae, "encoder", None)
    return isinstance(encoder, nn.Module) and all(
        weight.dtype == torch.float32 for weight in encoder.parameters()
    )


@contextmanager
def _encode_cast(vae: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """img2img encodes with the same weights, and its latents go on in the caller's dtype."""
    if not hasattr(vae, "encode"):
        yield
        return
    encode: Callable[..., object] = getattr(vae, "encode")  # noqa: B009 - nn.Module's type makes it a tensor

    @functools.wraps(encode)
    def call(x: Tensor, *args: object, **kwargs: object) -> object:
        return _outward(encode(x.to(dtype), *args, **kwargs), x.dtype)

    with patched(vae, "encode", call):
        yield


def _outward(encoded: object, dtype: torch.dtype) -> object:
    """An encoder's output in the caller's dtype; a latent distribution is an object of tensors."""

    def outward(leaf: object) -> object:
        if isinstance(leaf, Tensor):
            return cast(leaf, dtype)
        if hasattr(leaf, "sample") and hasattr(leaf, "__dict__"):
            converted = copy.copy(leaf)
            vars(converted).update(cast(dict(vars(leaf)), dtype))
            return converted
        return leaf

    return pytorch.tree_map(outward, encoded)


def _denoiser_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        one_of(settings, "dtype", _ALLOWED),
        _applies_to(denoisers(pipeline), settings, device),
    )


@contextmanager
def _denoiser_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    modules = denoisers(pipeline)
    dtype = getattr(torch, dtype_of(settings, modules, device_of(pipeline)))
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(in_dtype(module, "forward", dtype))
        yield


VAE_DTYPE = FixCode(_vae_applies, _vae_apply)
DENOISER_DTYPE = FixCode(_denoiser_applies, _denoiser_apply)
