"""Models for the serve tests, as `serve_models:NAME`."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from tiny_pipelines import FAMILIES, PIPELINES


def sdxl() -> DiffusionPipeline:
    return PIPELINES["sdxl"].build()


def small_vae() -> DiffusionPipeline:
    """Whose VAE Inductor compiles in seconds."""
    pipeline = sdxl()
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
    )
    return type(pipeline)(**{**pipeline.components, "vae": vae.eval()})


def sd15() -> DiffusionPipeline:
    return PIPELINES["sd15"].build()


def flux() -> DiffusionPipeline:
    return PIPELINES["flux"].build()


def lumina2() -> DiffusionPipeline:
    return PIPELINES["lumina2"].build()


def wan() -> DiffusionPipeline:
    return PIPELINES["wan"].build()


def compiled() -> DiffusionPipeline:
    """One block runs through dynamo, whose `eager` backend compiles nothing: real guards, in
    milliseconds."""
    pipeline = sdxl()
    pipeline.unet.down_blocks[0].resnets[0].compile(backend="eager", dynamic=False)
    return pipeline


def flux2_klein() -> DiffusionPipeline:
    return FAMILIES["flux2_klein"].build()
