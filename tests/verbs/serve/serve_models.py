"""Models for the serve tests, as `serve_models:NAME`."""

from __future__ import annotations

from diffusers import DiffusionPipeline

from tiny_pipelines import FAMILIES, PIPELINES


def sdxl() -> DiffusionPipeline:
    return PIPELINES["sdxl"].build()


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
