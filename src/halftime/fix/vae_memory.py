"""vae-slicing-off: decode the whole batch at once. vae-slicing and vae-tiling: a picture, or a tile
of one, at a time, which saves memory.

Tiles are blended at their edges, so a whole decode is another picture: vae-slicing-off leaves them
where they are in use, and some VAEs (Allegro's) decode in tiles alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from halftime.fix.base import Applies, Apply, FixCode, Settings, call, first_reason, needs_vae
from halftime.fix.undo import restored
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


# ---- on


def _can_be_switched_on(switch: str) -> Applies:
    """`switch` is the end of the VAE's `enable_...` and `use_...`."""

    def applies(
        pipeline: DiffusionPipeline, device: torch.device, settings: Settings
    ) -> str | None:
        vae = vae_of(pipeline)
        return first_reason(
            needs_vae(pipeline, device, settings),
            None if hasattr(vae, f"enable_{switch}") else f"its VAE has no enable_{switch}",
            f"{switch} is on already" if getattr(vae, f"use_{switch}", False) else None,
        )

    return applies


def _switched_on(switch: str) -> Apply:
    @contextmanager
    def apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
        vae = vae_of(pipeline)
        assert isinstance(vae, nn.Module)
        with restored(vae):
            call(vae, f"enable_{switch}")
            yield

    return apply


VAE_SLICING_OFF = FixCode(_applies, _apply)
VAE_SLICING = FixCode(_can_be_switched_on("slicing"), _switched_on("slicing"))
VAE_TILING = FixCode(_can_be_switched_on("tiling"), _switched_on("tiling"))
