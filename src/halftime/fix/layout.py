"""vae-channels-last and denoiser-channels-last: convolution weights in the layout that the kernels
prefer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.fix.base import FixCode, Settings
from halftime.fix.undo import replace_tensors, restored
from halftime.pipeline.components import denoisers, vae_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() == 5:
        return tensor.contiguous(memory_format=torch.channels_last_3d)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@contextmanager
def _in_channels_last(modules: list[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(restored(module))
            replace_tensors(module, _channels_last)
        yield


def _reason(modules: list[nn.Module]) -> str | None:
    kernels = [
        m for module in modules for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)
    ]
    wide = [conv for conv in kernels if conv.weight.shape[2] > 1]
    if not wide:
        return "it has no convolution wider than 1x1"
    return "it is channels_last already" if all(_is_last(conv.weight) for conv in wide) else None


def _is_last(weight: Tensor) -> bool:
    layout = torch.channels_last_3d if weight.dim() == 5 else torch.channels_last
    return weight.is_contiguous(memory_format=layout)


def _vaes(pipeline: DiffusionPipeline) -> list[nn.Module]:
    vae = vae_of(pipeline)
    return [] if vae is None else [vae]


def _vae_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return _reason(_vaes(pipeline))


def _denoiser_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return _reason(denoisers(pipeline))


VAE_CHANNELS_LAST = FixCode(
    _vae_applies, lambda pipeline, settings: _in_channels_last(_vaes(pipeline))
)
DENOISER_CHANNELS_LAST = FixCode(
    _denoiser_applies, lambda pipeline, settings: _in_channels_last(denoisers(pipeline))
)
