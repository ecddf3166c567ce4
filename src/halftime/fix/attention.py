"""fused-qkv and attention-backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from halftime.base.errors import first_line
from halftime.fix.base import FixCode, Settings, call, first_reason, needs_denoiser, text
from halftime.fix.undo import restored
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

# torch's own kernels, for every model; other names are diffusers' backends, for models that
# dispatch.
NATIVE = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def _fuse_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    models = denoisers(pipeline)
    if not all(hasattr(model, "fuse_qkv_projections") for model in models):
        return "its denoiser cannot fuse projections"
    added = any(
        "Added" in type(processor).__name__
        for model in models
        for processor in getattr(model, "attn_processors", {}).values()
    )
    unfusable = next(filter(None, map(hugging_face.unfusable_attention, models)), None)
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        "models with added key and value projections cannot be fused" if added else None,
        f"diffusers cannot fuse the projections of {unfusable}" if unfusable else None,
    )


@contextmanager
def _fused(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        for model in map(pytorch.uncompiled, denoisers(pipeline)):
            stack.enter_context(restored(model))
            # The class's: the module's own is refused to callers inside another block.
            type(model).fuse_qkv_projections(model)  # type: ignore[attr-defined]
        yield


def _under(forward: Callable[..., object], backend: SDPBackend) -> Callable[..., object]:
    # The chosen kernel first, any other where it cannot run. math runs everywhere, so that nothing
    # else is allowed beside it: on a CPU torch takes flash whenever it may, whatever the order.
    fallbacks = [] if backend is SDPBackend.MATH else [*NATIVE.values()]
    order = list(dict.fromkeys([backend, *fallbacks]))

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        with sdpa_kernel(order, set_priority=True):
            return forward(*args, **kwargs)

    return call


def _backend_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    name = text(settings, "backend")
    allowed = ("flash", "math") if device.type == "cpu" else tuple(NATIVE)
    if name in NATIVE:
        missing = (
            None
            if name in allowed
            else f"torch has no {name} attention on {device.type}; it has {allowed}"
        )
        return first_reason(needs_denoiser(pipeline, device, settings), missing)
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        *(_refused(m, name) for m in denoisers(pipeline)),
    )


def _refused(model: nn.Module, name: str) -> str | None:
    """Why diffusers refuses this backend for this model, or None: it is set, and taken back."""
    if not hasattr(model, "set_attention_backend"):
        return "its denoiser does not dispatch attention"
    try:
        with _processors_restored(model):
            call(model, "set_attention_backend", name)
    except (ValueError, ImportError, RuntimeError) as error:
        return first_line(error)
    return None


@contextmanager
def _processors_restored(model: nn.Module) -> Iterator[None]:
    processors = [getattr(module, "processor", None) for module in model.modules()]
    before = [
        (processor, dict(vars(processor))) for processor in processors if processor is not None
    ]
    try:
        with hugging_face.active_attention_backend_restored():
            yield
    finally:
        for processor, attributes in before:
            vars(processor).clear()
            vars(processor).update(attributes)


@contextmanager
def _with_backend(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    name = text(settings, "backend")
    with ExitStack() as stack:
        for model in denoisers(pipeline):
            if name in NATIVE:
                stack.enter_context(patched(model, "forward", _under(model.forward, NATIVE[name])))
            else:
                stack.enter_context(_processors_restored(model))
                call(model, "set_attention_backend", name)
        yield


FUSED_QKV = FixCode(_fuse_applies, _fused)
ATTENTION_BACKEND = FixCode(_backend_applies, _with_backend)
