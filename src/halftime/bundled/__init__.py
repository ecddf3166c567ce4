"""emoji-xl: a small text-to-image model with exactly SDXL's classes, trained for halftime and
shipped with it.

Nothing here touches the network. The model card is README.md beside this file.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

    from halftime.bundled.judge import Judge

FOLDER = Path(__file__).parent
BUNDLED = "bundled"  # what the model is called where a model is named
# a diffusers folder: StableDiffusionXLPipeline.from_pretrained takes it too
MODEL = FOLDER / "model"
TINY_VAE = FOLDER / "tiny_vae"
JUDGE = FOLDER / "judge"
PROMPTS = FOLDER / "prompts.toml"
RANDOM_WEIGHTS_SEED = 0
# what emoji-xl draws best with; at the pipeline's default of 5 backgrounds become mottled
GUIDANCE = 2.5

Style = Literal["render", "flat", "pixel"]
CONTENT_CLASS: dict[Style, str] = {"render": "photo-like", "flat": "drawing", "pixel": "hard-edged"}


class Prompt(NamedTuple):
    """A prompt of the test set, and what it asks for."""

    text: str
    style: Style
    object: str
    colour: str | None = None

    @property
    def content_class(self) -> str:
        return CONTENT_CLASS[self.style]


def trained() -> bool:
    """Whether this installation carries the weights. Without them `load()` gives the same shapes,
    and noise."""
    return (MODEL / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def load(dtype: torch.dtype | None = None) -> StableDiffusionXLPipeline:
    """The whole pipeline, on the CPU; float32 unless another dtype is asked for."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    dtype = dtype or torch.float32
    if not trained():
        return _untrained(dtype)
    with _no_progress_bars():
        return StableDiffusionXLPipeline.from_pretrained(
            MODEL,
            dtype=dtype,
            local_files_only=True,
            add_watermarker=False,
            low_cpu_mem_usage=False,
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a fraction of a second; three bars about it would only hide what the caller
    prints."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [bars for bars in (of_diffusers, of_transformers) if bars.is_progress_bar_enabled()]
    for bars in shown:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        for bars in shown:
            bars.enable_progress_bar()


def _untrained(dtype: torch.dtype) -> StableDiffusionXLPipeline:
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

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


def load_tiny_vae(dtype: torch.dtype | None = None) -> AutoencoderTiny:
    """A distilled AutoencoderTiny that reads and writes the same latents as the pipeline's VAE."""
    import torch
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(
        TINY_VAE, dtype=dtype or torch.float32, local_files_only=True, low_cpu_mem_usage=False
    )


def load_judge() -> Judge:
    """A small CLIP-style model that scores how well a picture agrees with a prompt; not part of the
    pipeline."""
    from halftime.bundled.judge import Judge

    return Judge.from_folder(JUDGE)


@cache
def prompts() -> tuple[Prompt, ...]:
    """The 500 prompts of the test set, the three styles in turn."""
    rows = tomllib.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    return tuple(
        Prompt(row["text"], row["style"], row["object"], row.get("colour")) for row in rows
    )


def prompts_hash() -> str:
    """First 16 hex digits of SHA-256 over the prompts' texts, one a line."""
    return hashlib.sha256("\n".join(p.text for p in prompts()).encode()).hexdigest()[:16]
