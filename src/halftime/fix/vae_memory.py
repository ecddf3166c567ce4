"""vae-slicing-off: decode the whole batch at once.

Tiles stay where they are in use: they are blended at their edges, so a whole decode is another
picture, and some VAEs (Allegro's) decode in tiles alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from halftime.fix.base import FixCode, Settings, first_reason, needs_vae
from halftime.pipeline.change import patched
from halftime.pipeline.components import vae_of

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    vae = vae_of(pipeline)
    tiled = "; its tiles stay, since without them the picture is another"
    off = f"slicing is off already{tiled if getattr(vae, 'use_tiling', False) else ''}"
    return first_reason(
        needs_vae(pipeline, device, settings), None if getattr(vae, "use_slicing", False) else off
    )


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with patched(vae_of(pipeline), "use_slicing", False):
        yield


VAE_SLICING_OFF = FixCode(_applies, _apply)
