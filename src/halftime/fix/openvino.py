"""openvino: components converted with openvino.convert_model, static shapes, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halftime.extras import optional
from halftime.fix.base import Fix, Settings, ceiling_of, chosen_parts, first_reason, one_of, text
from halftime.fix.runtime import Convert, Flat, Runner, elsewhere, reason_against

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}


def converter(settings: Settings) -> Convert:
    """How one component's method becomes an OpenVINO request."""
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        # Left to itself OpenVINO takes bf16 where the processor has it; here it is said.
        "INFERENCE_PRECISION_HINT": _PRECISIONS[text(settings, "precision")],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }

    def convert(flat: Flat, tensors: tuple[Tensor, ...]) -> Runner:
        openvino = optional("openvino", "openvino", "The fix 'openvino'")
        # Static shapes are faster; in fp32 they crash OpenVINO 2026.4's CPU plugin on some UNets (a segmentation fault
        # in compile_model), dynamic ones do not.
        static = config["INFERENCE_PRECISION_HINT"] != "f32"
        shapes = {"input": [openvino.PartialShape(list(t.shape)) for t in tensors]} if static else {}
        model = openvino.convert_model(flat, example_input=tensors, **shapes)
        request = openvino.compile_model(model, "CPU", config).create_infer_request()

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            arrays = [tensor.detach().float().contiguous().numpy() if tensor.is_floating_point() else tensor.numpy()
                      for tensor in inputs]  # fmt: skip
            outputs = request.infer(dict(enumerate(arrays)), share_inputs=True)
            # A copy: the request writes the next call's result into the same memory.
            return [torch.from_numpy(array.copy()) for array in outputs.values()]

        return run

    return convert


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    return first_reason(
        reason_against(pipeline, device, settings, "openvino", "openvino"),
        one_of(settings, "precision", tuple(_PRECISIONS)),
    )


def _apply(pipeline: DiffusionPipeline, settings: Settings) -> AbstractContextManager[None]:
    return elsewhere(pipeline, settings, converter(settings))


OPENVINO = Fix(
    name="openvino",
    summary="Denoiser and VAE through OpenVINO, for machines without a GPU.",
    level="equivalent",
    stage="denoise",
    applies=_applies,
    apply=_apply,
    ceiling=ceiling_of("denoise", "denoiser"),
    settings={"components": ["denoiser", "vae"], "precision": "bfloat16"},
    parts=chosen_parts,
    proposals=({"components": ["denoiser"]}, {"components": ["vae"]}),
    extra="openvino",
)
