"""tf32 and cudnn-benchmark: torch's own switches for CUDA, on during the pipeline's calls alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from halftime.fix.base import FixCode, Settings, first_reason
from halftime.pipeline.change import surrounded
from halftime.pipeline.components import modules_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_TENSOR_CORES_FOR_FP32 = (8, 0)  # compute capability: Ampere
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@contextmanager
def tensor_cores_for_fp32() -> Iterator[None]:
    """Within it products of float32 have TF32's 10 bits of mantissa."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Within it cuDNN tries its algorithms for each new shape, and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _during_calls(
    switched: Callable[[], AbstractContextManager[None]],
) -> Callable[[DiffusionPipeline, Settings], AbstractContextManager[None]]:
    return lambda pipeline, settings: surrounded(pipeline, switched)


def _on_cuda(device: torch.device) -> str | None:
    return (
        None
        if device.type == "cuda"
        else f"it is a switch for CUDA, and the pipeline is on {device}"
    )


def _tf32_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    if reason := _on_cuda(device):
        return reason
    capability = torch.cuda.get_device_capability(device)
    weights = (weight for module in modules_of(pipeline).values() for weight in module.parameters())
    return first_reason(
        None
        if capability >= _TENSOR_CORES_FOR_FP32
        else f"TF32 needs compute capability 8.0; this GPU has {capability[0]}.{capability[1]}",
        None
        if any(weight.dtype is torch.float32 for weight in weights)
        else "nothing of it is in float32",
        None if torch.get_float32_matmul_precision() == "highest" else "TF32 is on already",
    )


def _benchmark_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    parts = (part for module in modules_of(pipeline).values() for part in module.modules())
    return first_reason(
        _on_cuda(device),
        None
        if any(isinstance(part, _CONVOLUTIONS) for part in parts)
        else "it has no convolutions",
        "cudnn.benchmark is on already" if torch.backends.cudnn.benchmark else None,
    )


TF32 = FixCode(_tf32_applies, _during_calls(tensor_cores_for_fp32))
CUDNN_BENCHMARK = FixCode(_benchmark_applies, _during_calls(fastest_convolutions))
