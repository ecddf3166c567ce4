"""The bundled model's weights into diffusers' classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.utils import logging as transformers_logging

from halftime.bundled import MODEL, RANDOM_WEIGHTS_SEED, TINY_VAE, trained
from halftime.upstream import hugging_face


def load_model(dtype: torch.dtype | None = None) -> StableDiffusionXLPipeline:
    """The whole pipeline, on the CPU; float32 unless another dtype is given."""
    dtype = dtype or torch.float32
    if not trained():
        return _untrained(dtype)
    with _no_progress_bars():
        return StableDiffusionXLPipeline.from_pretrained(
            MODEL,
            **{hugging_face.dtype_keyword(): dtype},
            local_files_only=True,
            add_watermarker=False,
            low_cpu_mem_usage=False,
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a fraction of a second; three bars would only hide what the caller prints."""
    loggers = [
        logger
        for logger in (diffusers_logging, transformers_logging)
        if logger.is_progress_bar_enabled()
    ]
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in loggers:
            logger.enable_progress_bar()


def _untrained(dtype: torch.dtype) -> StableDiffusionXLPipeline:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        parts = {
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(MODEL / "text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig.from_pretrained(MODEL / "text_encoder_2")
            ),
            "unet": UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(MODEL / "unet")
            ),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(MODEL / "vae")),
        }
    return StableDiffusionXLPipeline(
        **{
            name: (part if dtype == torch.float32 else part.to(dtype)).eval()
            for name, part in parts.items()
        },
        tokenizer=CLIPTokenizer.from_pretrained(MODEL / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(MODEL / "tokenizer_2"),
        scheduler=EulerDiscreteScheduler.from_pretrained(MODEL / "scheduler"),
        add_watermarker=False,
    )


def load_tiny(dtype: torch.dtype | None = None) -> AutoencoderTiny:
    """The tiny VAE; float32 unless another dtype is given."""
    return AutoencoderTiny.from_pretrained(
        TINY_VAE,
        **{hugging_face.dtype_keyword(): dtype or torch.float32},
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
