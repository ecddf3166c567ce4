"""A second pipeline beside the first, at the price of no weight."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def twin(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Another pipeline over the same weights: fixes exchange tensors and never write into them."""
    memo: dict[int, object] = {}
    for component in pipeline.components.values():
        for table in ("parameters", "buffers"):
            if hasattr(component, table):
                memo.update({id(tensor): tensor for tensor in getattr(component, table)()})
    return copy.deepcopy(pipeline, memo)
