"""int8-dynamic: linear layers in 8 bits, activations quantised as they come (torchao). It can lose:
measure."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from halftime.base.extras import install, optional
from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser, number
from halftime.fix.undo import replace_tensors, restored
from halftime.pipeline.components import denoisers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    missing = importlib.util.find_spec("torchao") is None
    return first_reason(
        f"torchao is not installed: {install('torchao')}" if missing else None,
        needs_denoiser(pipeline, device, settings),
    )


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    torchao = optional("torchao.quantization", "torchao", "The fix 'int8-dynamic'")
    least = int(number(settings, "least_features"))

    def wide(module: nn.Module, path: str) -> bool:
        return (
            isinstance(module, nn.Linear) and min(module.in_features, module.out_features) >= least
        )

    with ExitStack() as stack:
        for model in denoisers(pipeline):
            stack.enter_context(restored(model))
            # torchao may write into what it is given
            replace_tensors(model, lambda tensor: tensor.clone())
            torchao.quantize_(
                model, torchao.Int8DynamicActivationInt8WeightConfig(), filter_fn=wide
            )
        yield


INT8_DYNAMIC = FixCode(_applies, _apply)
