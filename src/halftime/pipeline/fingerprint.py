"""Which weights a pipeline has: two fine-tunings of one architecture draw other pictures."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_ENDS = 4  # values from each end of each parameter


def weights_of(pipeline: DiffusionPipeline) -> dict[str, str]:
    """Component -> a hash over the names of its parameters and a few values of each, in bfloat16:
    the same in whatever precision they were loaded, on whatever device."""
    return {
        name: _hash(component)
        for name, component in sorted(pipeline.components.items())
        if isinstance(component, nn.Module)
    }


def _hash(module: nn.Module) -> str:
    names, ends = [], []
    for name, parameter in module.named_parameters():
        names.append(name)
        ends.append(_ends(parameter))
    values = torch.cat(ends).to(torch.float32).cpu().numpy().tobytes() if ends else b""
    return hashlib.sha256("\n".join(names).encode() + values).hexdigest()[:12]


def _ends(parameter: Tensor) -> Tensor:
    """Its first and last values; nothing of a parameter that holds none where it is."""
    if parameter.is_meta or parameter.numel() == 0:
        return torch.zeros(0, dtype=torch.bfloat16, device="cpu")
    flat = parameter.detach().reshape(-1)
    return torch.cat([flat[:_ENDS], flat[-_ENDS:]]).to(torch.bfloat16).cpu()
