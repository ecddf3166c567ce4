"""vae-folded-upsample: doubling a picture and the 3x3 convolution after it, as one convolution.

Nearest-neighbour doubling copies every value four times, and the convolution then multiplies the
copies again. Weights that meet the same value can be added beforehand: a 4x4 transposed convolution
of stride 2 gives the same numbers with 4 instead of 9 multiplications an output (the sub-pixel
identity of Shi et al., 2016, with the kernel folded).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.fix.base import FixCode, Settings, first_reason, needs_vae
from halftime.fix.undo import restored
from halftime.pipeline.components import vae_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def folded(weight: Tensor) -> Tensor:
    """A 3x3 kernel (out, in, 3, 3) after doubling as a transposed 4x4 kernel (in, out, 4, 4) of
    stride 2, padding 1.

    Along one side, with taps a, b, c: even outputs are a x[i-1] + (b + c) x[i], odd ones (a + b)
    x[i] + c x[i+1]. Added in double precision, so that only the result is rounded.
    """
    return (
        _along(_along(weight.detach().double(), 2), 3).transpose(0, 1).to(weight.dtype).contiguous()
    )


def _along(weight: Tensor, side: int) -> Tensor:
    a, b, c = weight.unbind(side)
    return torch.stack([c, b + c, a + b, a], side)


class FoldedUpsample(nn.Module):
    """Stands for a diffusers `Upsample2D` with its convolution."""

    def __init__(self, original: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        self.original = original  # for an output size other than double
        self.weight = nn.Parameter(folded(conv.weight), requires_grad=False)
        self.bias = conv.bias

    def forward(
        self,
        hidden_states: Tensor,
        output_size: tuple[int, int] | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        doubled = tuple(2 * side for side in hidden_states.shape[-2:])
        if output_size is not None and tuple(output_size) != doubled:
            result = self.original(hidden_states, output_size, *args, **kwargs)
            assert isinstance(result, Tensor)
            return result
        return nn.functional.conv_transpose2d(
            hidden_states, self.weight, self.bias, stride=2, padding=1
        )


def _convolution(module: nn.Module) -> nn.Conv2d | None:
    """The convolution of an `Upsample2D` that can be folded: doubling by copies, then 3x3, and
    nothing in between."""
    if type(module).__name__ != "Upsample2D" or getattr(module, "norm", None) is not None:
        return None
    conv = getattr(module, "conv", None) or getattr(module, "Conv2d_0", None)
    plain = isinstance(conv, nn.Conv2d) and getattr(module, "interpolate", True)
    shape = (
        (conv.kernel_size, conv.padding, conv.stride, conv.groups)
        if isinstance(conv, nn.Conv2d)
        else None
    )
    return conv if plain and shape == ((3, 3), (1, 1), (1, 1), 1) else None


def _decoder(pipeline: DiffusionPipeline) -> nn.Module | None:
    decoder = getattr(vae_of(pipeline), "decoder", None)
    return decoder if isinstance(decoder, nn.Module) else None


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    decoder = _decoder(pipeline)
    modules = decoder.modules() if decoder is not None else ()
    foldable = any(_convolution(module) is not None for module in modules)
    return first_reason(
        needs_vae(pipeline, device, settings),
        None if foldable else "its decoder has no doubling with a 3x3 convolution after it",
    )


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    decoder = _decoder(pipeline)
    assert decoder is not None
    with restored(decoder):
        for parent in list(decoder.modules()):
            for name, child in list(parent.named_children()):
                conv = _convolution(child)
                if conv is not None:
                    parent.register_module(name, FoldedUpsample(child, conv))
        yield


VAE_FOLDED_UPSAMPLE = FixCode(_applies, _apply)
