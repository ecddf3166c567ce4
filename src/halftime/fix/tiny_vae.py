"""tiny-vae: a distilled decoder in the place of the VAE. Lossy: look at the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from halftime.fix.base import FixCode, Settings, first_reason, needs_vae, text
from halftime.pipeline.change import patched
from halftime.pipeline.components import vae_of

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn


def load(source: str, like: nn.Module) -> nn.Module:
    """An AutoencoderTiny from a folder, a hub id or 'bundled', on the device and in the dtype of
    `like`."""
    from diffusers import AutoencoderTiny

    from halftime import bundled

    tiny = (
        bundled.load_tiny_vae() if source == "bundled" else AutoencoderTiny.from_pretrained(source)
    )
    parameter = next(like.parameters())
    module: nn.Module = tiny.to(device=parameter.device, dtype=parameter.dtype).eval()
    return module


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    return first_reason(
        needs_vae(pipeline, device, settings), _unknown(pipeline, text(settings, "source"))
    )


def _unknown(pipeline: DiffusionPipeline, source: str) -> str | None:
    from halftime import bundled

    if not source:
        return (
            "name a tiny VAE that was distilled from this one: source = a folder, a hub id, or "
            "'bundled'"
        )
    if source == "bundled":
        if not (bundled.TINY_VAE / "config.json").is_file():
            return "this installation carries no bundled tiny VAE"
        return (
            None
            if _is_bundled(pipeline)
            else "the bundled tiny VAE reads the bundled model's latents only"
        )
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        return f"{source} holds no config.json, so it is no diffusers model folder"
    return None


def _is_bundled(pipeline: DiffusionPipeline) -> bool:
    """By the VAE's shape: a copy of the bundled pipeline counts, another model of SDXL's classes
    does not."""
    import json

    from halftime import bundled

    config = json.loads((bundled.MODEL / "vae" / "config.json").read_text(encoding="utf-8"))
    own = getattr(vae_of(pipeline), "config", {})
    return all(
        list(own.get(key, [])) == config[key] for key in ("block_out_channels", "up_block_types")
    )


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    original = vae_of(pipeline)
    assert original is not None
    with patched(pipeline, "vae", load(text(settings, "source"), original)):
        yield


TINY_VAE = FixCode(_applies, _apply)
