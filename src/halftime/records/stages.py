"""The stages of a call, and which component of a pipeline belongs to which."""

from __future__ import annotations

import re
from typing import NamedTuple


class Place(NamedTuple):
    """Where in the ledger a component's time goes."""

    stage: str
    part: str


# Component name (diffusers' own; in combined pipelines with a prefix, in pairs with a number) ->
# stage and part.
_COMPONENTS: tuple[tuple[str, Place], ...] = (
    ("tokenizer text_processor", Place("encode_prompt", "tokenizer")),
    ("text_encoder language_model prompt_encoder mllm llm", Place("encode_prompt", "text_encoder")),
    ("projection_model text_proj connectors", Place("encode_prompt", "text_encoder")),
    ("image_encoder feature_extractor vision_encoder", Place("encode_image", "image_encoder")),
    (
        "unet transformer dit controlnet adapter motion_adapter prior decoder",
        Place("denoise", "denoiser"),
    ),
    ("scheduler", Place("denoise", "scheduler")),
    ("vae vqgan movq vqvae image_vae video_vae audio_vae", Place("vae_decode", "vae")),
    ("processor", Place("postprocess", "image_processor")),
    ("vocoder", Place("postprocess", "vocoder")),
    ("safety_checker watermark", Place("postprocess", "safety_checker")),
)
# The first that matches counts.
STAGES: tuple[tuple[re.Pattern[str], Place], ...] = tuple(
    (re.compile(rf"(?:.*_)?(?:{names.replace(' ', '|')})(?:_\d+)?"), home)
    for names, home in _COMPONENTS
)


def place_of(component: str) -> Place | None:
    """The stage and part of a component by its name, or None where the name is not known."""
    return next((home for pattern, home in STAGES if pattern.fullmatch(component)), None)
