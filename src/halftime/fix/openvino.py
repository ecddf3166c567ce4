"""openvino: components converted with openvino.convert_model, static shapes, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halftime.base.extras import optional
from halftime.fix.base import FixCode, Settings, first_reason, one_of, text
from halftime.fix.runtime import Convert, Flat, Runner, elsewhere, not_installed, reason_against

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}


def converter(settings: Settings) -> Convert:
    """How one component's method becomes an OpenVINO request."""
    precision = _PRECISIONS[text(settings, "precision")]
    config: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        # By default OpenVINO takes bf16 where the processor has it; here the user decides.
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    if precision == "f32":
        # OpenVINO 2026.4's fused kernels (snippets) crash while f32 UNets of static shapes are
        # compiled.
        config["SNIPPETS_MODE"] = "DISABLE"

    def convert(flat: Flat, tensors: tuple[Tensor, ...]) -> Runner:
        openvino = optional("openvino", "openvino", "The fix 'openvino'")
        shapes = [openvino.PartialShape(list(t.shape)) for t in tensors]  # static ones are faster
        with warnings.catch_warnings():
            # What the tracer takes for constants is constant here: shapes are static.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            model = openvino.convert_model(flat, example_input=tensors, input=shapes)
        request = openvino.compile_model(model, "CPU", config).create_infer_request()
        # Buffers that stay: handing arrays over anew on each call costs more than copying small
        # ones.
        buffers = [_buffer(tensor) for tensor in tensors]
        for index, buffer in enumerate(buffers):
            request.set_input_tensor(index, openvino.Tensor(buffer.numpy(), shared_memory=True))
        outputs = [request.get_output_tensor(index) for index in range(len(model.outputs))]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            for buffer, tensor in zip(buffers, inputs, strict=True):
                buffer.copy_(tensor)
            request.infer()
            # A copy: the request writes the next call's result into the same memory.
            return [torch.from_numpy(output.data.copy()) for output in outputs]

        return run

    return convert


def _buffer(tensor: Tensor) -> Tensor:
    """Memory for one input; floats are always float32 outside."""
    return torch.empty(
        tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype
    )


def missing() -> str | None:
    """A reason where OpenVINO is not installed."""
    return not_installed("openvino", "openvino")


def precision_reason(settings: Settings) -> str | None:
    """A reason where the precision is not one that is offered for OpenVINO."""
    return one_of(settings, "precision", tuple(_PRECISIONS))


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    return first_reason(
        reason_against(pipeline, device, settings, "openvino", "openvino"),
        precision_reason(settings),
    )


def _apply(pipeline: DiffusionPipeline, settings: Settings) -> AbstractContextManager[None]:
    return elsewhere(pipeline, settings, converter(settings))


OPENVINO = FixCode(_applies, _apply)
