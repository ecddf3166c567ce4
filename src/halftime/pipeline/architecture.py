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


def _shapes_hash(module: nn.Module) -> str:
    shapes = [f"{name}{tuple(parameter.shape)}" for name, parameter in module.named_parameters()]
    return hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:12]
