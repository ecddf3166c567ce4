"""vae-slicing-off: decode the whole batch at once, and without tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from halftime.fix.base import FixCode, Settings, first_reason, needs_vae
from halftime.pipeline.change import patched
from halftime.pipeline.components import vae_of

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_SWITCHES = ("use_slicing", "use_tiling")


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    vae = vae_of(pipeline)
    on = [name for name in _SWITCHES if getattr(vae, name, False)]
    return first_reason(
        needs_vae(pipeline, device, settings), None if on else "slicing and tiling are off already"
    )


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    vae = vae_of(pipeline)
    with ExitStack() as stack:
        for name in _SWITCHES:
            if hasattr(vae, name):
                stack.enter_context(patched(vae, name, False))
        yield


VAE_SLICING_OFF = FixCode(_applies, _apply)
