"""From a workload to the keyword arguments of one call of a pipeline, whatever its call takes."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from halftime.base.errors import BadWorkload, HalftimeWarning
from halftime.pipeline import inputs
from halftime.pipeline.pictures import (
    check_pictures,
    draws_in_the_size_of_its_pictures,
    picture_arguments,
    text_encoders,
)
from halftime.pipeline.signature import CATCH_ALL as CATCH_ALL
from halftime.pipeline.signature import CallParameters as CallParameters
from halftime.pipeline.signature import call_parameters as call_parameters
from halftime.pipeline.workload import change
from halftime.records import Workload
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Passed without a request for them, so dropped silently where a pipeline does not take them.
_DEFAULTED = {"prompt", "num_inference_steps", "generator"}
# What stands for the prompt where it was encoded before.
_EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds")
# What a modular pipeline draws, the first that its blocks give.
_OUTPUTS = ("images", "videos", "video", "image", "audio", "audios")


def vae_factor(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent cell, along one side; 1 where the pipeline does not say."""
    factor = getattr(pipeline, "vae_scale_factor", None) or getattr(
        pipeline, "vae_scale_factor_spatial", None
    )
    return factor if isinstance(factor, int) and factor > 0 else 1


def call_arguments(
    pipeline: DiffusionPipeline,
    workload: Workload,
    further: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The keyword arguments of one call of `pipeline` for `workload`, with generators seeded anew.

    What the workload leaves open (None) is left to the pipeline. `further` arguments go to the call
    as they are, before what the workload says. Raises BadWorkload for a field that was set and that
    the pipeline's call does not take, for a picture that the call needs and does not get, and for a
    size that its VAE cannot hold. A call that takes **kwargs of the user's own gets what was set in
    any case, with a HalftimeWarning where nothing names it.
    """
    parameters = call_parameters(pipeline)
    own = {**inputs.from_files(workload.arguments), **(further or {})}
    arguments = {**_workload_arguments(pipeline, workload, parameters, own), **own}
    refused = {name for name in arguments if not parameters.takes(name)}
    if refused - _DEFAULTED and not parameters.hands_on:
        name = min(refused - _DEFAULTED)
        raise BadWorkload(_not_taken(pipeline, name, parameters.names))
    unnamed = sorted({*own} - {*parameters.names})
    if parameters.hands_on and unnamed:
        text = (
            f"{type(pipeline).__name__} names no argument {unnamed[0]!r}; it goes in by "
            "**kwargs, which may ignore it."
        )
        warnings.warn(text, HalftimeWarning, stacklevel=2)
    _check_size(pipeline, workload)
    _check_text(pipeline, parameters, own)
    check_pictures(pipeline, arguments, parameters)
    return {
        name: inputs.again(value)
        for name, value in arguments.items()
        if name not in refused & _DEFAULTED
    }


# Arguments that a workload has a field for -> the field, and the type that it holds.
_FIELDS: Mapping[str, tuple[str, type]] = {
    "negative_prompt": ("negative_prompt", str),
    "num_inference_steps": ("steps", int),
    "guidance_scale": ("guidance", float),
    "width": ("width", int),
    "height": ("height", int),
    "num_images_per_prompt": ("images_per_prompt", int),
}


def absorbed(
    workload: Workload, arguments: Mapping[str, object]
) -> tuple[Workload, dict[str, object]]:
    """The workload with those arguments of a call that it has fields for, and the rest of them.

    Raises BadWorkload for a value that no pipeline can run.
    """
    changes: dict[str, object] = {}
    remaining = dict(arguments)
    prompt = remaining.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if isinstance(prompts, list) and prompts and all(isinstance(text, str) for text in prompts):
        changes["prompts"] = prompts
        del remaining["prompt"]
    for name, (field, kind) in _FIELDS.items():
        value = remaining.get(name)
        if type(value) is kind or (kind is float and type(value) is int):
            changes[field] = remaining.pop(name)
    return change(workload, changes), remaining


def _not_taken(pipeline: DiffusionPipeline, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    words = " or ".join(map(repr, near))
    hint = f" Did you mean {words}?" if near else ""
    if name == "guidance_scale" and hasattr(pipeline, "guider"):
        hint = " Its guider holds it: pipeline.guider.guidance_scale."
    return f"{type(pipeline).__name__} takes no {name}.{hint} It takes: {', '.join(names)}."


def _workload_arguments(
    pipeline: DiffusionPipeline,
    workload: Workload,
    parameters: CallParameters,
    own: Mapping[str, object],
) -> dict[str, object]:
    prompts = list(workload.prompts)
    negative = workload.negative_prompt
    in_pictures = draws_in_the_size_of_its_pictures(workload, parameters)
    optional: dict[str, object] = {
        "negative_prompt": [negative] * len(prompts) if negative and len(prompts) > 1 else negative,
        "guidance_scale": workload.guidance,
        "width": None if in_pictures else workload.width,
        "height": None if in_pictures else workload.height,
        "num_images_per_prompt": None
        if workload.images_per_prompt == 1
        else workload.images_per_prompt,
        "output": drawn_by_blocks(pipeline),
    }
    return {
        **(
            {}
            if "prompt_embeds" in own
            else {"prompt": prompts[0] if len(prompts) == 1 else prompts}
        ),
        "num_inference_steps": workload.steps,
        "generator": generators(workload, own.get("prompt_embeds")),
        **{name: value for name, value in optional.items() if value is not None},
        **picture_arguments(pipeline, workload, parameters),
    }


def drawn_by_blocks(pipeline: DiffusionPipeline) -> str | None:
    """What a modular pipeline is asked for: without it, its call gives everything that its blocks
    know."""
    blocks = hugging_face.blocks_of(pipeline)
    if blocks is None:
        return None
    names = {output.name for output in blocks.outputs}
    return next((name for name in _OUTPUTS if name in names), None)


def generators(
    workload: Workload, embeddings: object = None
) -> torch.Generator | list[torch.Generator]:
    """One generator for each picture, seeded seed, seed + 1, …

    They are on the CPU, so that no picture depends on the device. Ready `embeddings` are as many
    prompts as they have rows.
    """
    prompts = len(embeddings) if isinstance(embeddings, torch.Tensor) else len(workload.prompts)
    pictures = prompts * workload.images_per_prompt
    seeds = range(workload.seed, workload.seed + pictures)
    seeded = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return seeded[0] if pictures == 1 else seeded


def _check_text(
    pipeline: DiffusionPipeline, parameters: CallParameters, own: Mapping[str, object]
) -> None:
    """A pipeline whose text encoders were left out draws from embeddings alone."""
    encoders = text_encoders(pipeline)
    if not encoders or any(encoder is not None for encoder in encoders.values()):
        return
    needed = [name for name in parameters.names if name in _EMBEDDINGS]
    missing = [name for name in needed if name not in own]
    if missing and needed[0] in missing:
        raise BadWorkload(
            f"{type(pipeline).__name__} has no {' and no '.join(encoders)}, so it draws from ready "
            f"embeddings. Give them: {' '.join(f'--set {name}=@FILE' for name in missing)} "
            "(.safetensors, .pt or .npy), or by name from Python."
        )


def _check_size(pipeline: DiffusionPipeline, workload: Workload) -> None:
    factor = vae_factor(pipeline)
    for name in ("width", "height"):
        value = getattr(workload, name)
        if value is not None and value % factor:
            below, above = value // factor * factor, -(-value // factor) * factor
            raise BadWorkload(
                f"{name} {value} is not divisible by {factor}, the VAE's factor. Nearest: "
                f"{below or above} or {above}."
            )
