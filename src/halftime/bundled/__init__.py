"""emoji-xl: a small text-to-image model with exactly SDXL's classes, shipped with halftime.

Nothing here touches the network, and only what loads weights imports torch. The model card is
README.md beside this file.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from halftime.records.base import lines_hash

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

    from halftime.bundled.judge import Judge

FOLDER = Path(__file__).parent
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
    """Whether this installation has the weights; without them `load()` gives shapes and noise."""
    return (MODEL / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def load(dtype: torch.dtype | None = None) -> StableDiffusionXLPipeline:
    """The whole pipeline, on the CPU; float32 unless another dtype is given."""
    from halftime.bundled.weights import load_model

    return load_model(dtype)


def load_tiny_vae(dtype: torch.dtype | None = None) -> AutoencoderTiny:
    """A distilled AutoencoderTiny that reads and writes the same latents as the pipeline's VAE."""
    from halftime.bundled.weights import load_tiny

    return load_tiny(dtype)


def load_judge() -> Judge:
    """A small CLIP-style model that scores how well a picture agrees with a prompt."""
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
    return lines_hash(prompt.text for prompt in prompts())
