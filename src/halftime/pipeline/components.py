"""What a pipeline holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def pipelines_of(pipeline: DiffusionPipeline) -> list[DiffusionPipeline]:
    """The pipeline and those that it holds, as combined ones do."""
    from diffusers import DiffusionPipeline

    return [
        pipeline,
        *(value for value in vars(pipeline).values() if isinstance(value, DiffusionPipeline)),
    ]
