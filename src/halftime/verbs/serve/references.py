"""Pipelines that draw one picture from several."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Class -> pictures at most, as their makers name it. Their `image` is one list for the whole call,
# where that of other pipelines holds a picture for each prompt.
SEVERAL = {
    "Flux2Pipeline": 10,
    "Flux2KleinPipeline": 4,
    "QwenImageEditPlusPipeline": 3,
}


def most_references(pipeline: DiffusionPipeline) -> int:
    """How many pictures its call may be given; 1 where it takes one a prompt, or none."""
    return max(SEVERAL.get(base.__name__, 1) for base in type(pipeline).__mro__)
