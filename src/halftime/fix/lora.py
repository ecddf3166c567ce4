"""lora-fuse: the denoiser's active adapters, written into a copy of its weights.

An adapter beside the weights costs two small products and an addition in each layer of each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import nn

from halftime.base.errors import DoesNotApply
from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser
from halftime.fix.undo import restored
from halftime.pipeline.change import intercepted
from halftime.pipeline.components import denoisers
from halftime.pipeline.state import unfused_adapter_layers
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    unmerged = [layer for model in denoisers(pipeline) for layer in unfused_adapter_layers(model)]
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        None if unmerged else "no adapter (LoRA) works beside its denoiser's weights",
        next(filter(None, map(hugging_face.unmergeable_adapter, unmerged)), None),
    )


@contextmanager
def _fused(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(intercepted(pipeline, _without_scale))
        for model in denoisers(pipeline):
            stack.enter_context(restored(model))
            _fuse(model)
        yield


def _fuse(model: nn.Module) -> None:
    """In place of each layer with an adapter its base layer, over a copy of the weights with what
    the adapter adds; call inside `restored`."""
    layers = {*unfused_adapter_layers(model)}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child in layers:
                setattr(module, name, hugging_face.merged_copy(child))


def _without_scale(arguments: dict[str, object]) -> dict[str, object]:
    """The call's arguments. Raises DoesNotApply for a strength that is chosen with the call: what
    is in the weights already cannot be scaled."""
    for name, value in arguments.items():
        scale = value.get("scale") if isinstance(value, Mapping) else None
        if name.endswith("attention_kwargs") and scale is not None and scale != 1:
            raise DoesNotApply(
                f"{name} asks for a LoRA scale of {scale!r}, and the fix 'lora-fuse' has written "
                "the adapters into the weights. Choose the strength before the block, with "
                "pipeline.set_adapters(names, weights), or leave lora-fuse out."
            )
    return arguments


LORA_FUSE = FixCode(_applies, _fused)
