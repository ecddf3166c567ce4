"""onnxruntime: components exported to ONNX and run by ONNX Runtime on the CPU, in fp32."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halftime.base.extras import optional
from halftime.fix.base import FixCode, Settings
from halftime.fix.runtime import Flat, Runner, elsewhere, reason_against

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def convert(flat: Flat, tensors: tuple[Tensor, ...]) -> Runner:
    """One component's method as an ONNX Runtime session."""
    onnxruntime = optional("onnxruntime", "onnx", "The fix 'onnxruntime'")
    flat(*tensors)  # so that the results' dtypes are known outside of the trace
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # idle threads leave the cores alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory(prefix="halftime-onnx-") as folder:
        path = Path(folder) / "component.onnx"
        torch.onnx.export(flat, tensors, str(path), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    names = [argument.name for argument in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
        return [
            torch.from_numpy(array)
            for array in session.run(None, dict(zip(names, arrays, strict=True)))
        ]

    return run


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    for package in ("onnxruntime", "onnx", "onnxscript"):
        reason = reason_against(pipeline, device, settings, package, "onnx")
        if reason:
            return reason
    return None


def _apply(pipeline: DiffusionPipeline, settings: Settings) -> AbstractContextManager[None]:
    return elsewhere(pipeline, settings, convert)


ONNXRUNTIME = FixCode(_applies, _apply)
