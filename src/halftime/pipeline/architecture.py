"""What a pipeline is built of, as plain data that two pipelines can be compared by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def architecture(pipeline: DiffusionPipeline) -> dict[str, str]:
    """Component -> class, and for modules a hash over the names and shapes of their parameters."""
    return {
        name: f"{type(component).__name__}:{_shapes_hash(component)}"
        for name, component in sorted(pipeline.components.items())
        if isinstance(component, nn.Module)
    }


# As peft names what it puts beside the weights of a layer, and the layer under it.
_ADAPTERS, _UNDER_THEM = ".lora_", ".base_layer."


def _shapes_hash(module: nn.Module) -> str:
    """Adapters (LoRA) beside the weights come and go, and are not of the architecture."""
    shapes = [
        f"{name.replace(_UNDER_THEM, '.')}{tuple(parameter.shape)}"
        for name, parameter in module.named_parameters()
        if _ADAPTERS not in name
    ]
    return hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:12]
