"""From a workload to the keyword arguments of one call of a pipeline, whatever its call takes."""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import TYPE_CHECKING, NamedTuple

from halftime.base.errors import BadWorkload, HalftimeWarning
from halftime.records import Workload

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Passed without having been asked for, so dropped without a word where a pipeline does not take
# them.
_DEFAULTED = {"prompt", "num_inference_steps", "generator"}


def vae_factor(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent cell, along one side; 1 where the pipeline does not say."""
    factor = getattr(pipeline, "vae_scale_factor", None) or getattr(
        pipeline, "vae_scale_factor_spatial", None
    )
    return factor if isinstance(factor, int) and factor > 0 else 1


def call_arguments(pipeline: DiffusionPipeline, workload: Workload) -> dict[str, object]:
    """The keyword arguments of one call of `pipeline` for `workload`, with generators seeded anew.

    What the workload leaves open (None) is left to the pipeline. Raises BadWorkload for a field
    that was set and that the pipeline's call does not take, and for a size that its VAE cannot
    hold. A call that takes **kwargs of the user's own gets what was set in any case, with a
    HalftimeWarning where nothing names it.
    """
    wanted, taken = _wanted_arguments(pipeline, workload), _taken(type(pipeline))
    missing = set() if taken.anything else {name for name in wanted if name not in taken.names}
    refused = missing - _DEFAULTED
    if refused and not taken.hands_on:
        raise BadWorkload(_takes_no(type(pipeline).__name__, min(refused), taken.names))
    if taken.hands_on and (unnamed := sorted(set(workload.arguments) - set(taken.names))):
        text = (
            f"{type(pipeline).__name__} names no argument {unnamed[0]!r}; it goes in by "
            "**kwargs, which may ignore it."
        )
        warnings.warn(text, HalftimeWarning, stacklevel=2)
    _check_size(pipeline, workload)
    return {name: value for name, value in wanted.items() if name not in missing & _DEFAULTED}


class _Taken(NamedTuple):
    """What a call takes: the names of all calls that it extends; whether it hands **kwargs of the
    user's own on; and whether it may hand them to anything, since no call that it extends closes
    the list."""

    names: list[str]
    hands_on: bool
    anything: bool


def _taken(kind: type) -> _Taken:
    calls = [vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)]
    signatures = [inspect.signature(call).parameters.values() for call in calls]
    # diffusers' own **kwargs only swallow names that it gave up.
    opens = [
        any(one.kind is one.VAR_KEYWORD for one in each)
        and not call.__module__.startswith("diffusers.")
        for call, each in zip(calls, signatures, strict=True)
    ]
    names = {
        one.name: None for each in signatures for one in list(each)[1:] if one.kind not in CATCH_ALL
    }
    return _Taken(list(names), opens[0], all(opens))


def _takes_no(pipeline: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{pipeline} takes no {name}.{hint} It takes: {', '.join(names)}."


def _wanted_arguments(pipeline: DiffusionPipeline, workload: Workload) -> dict[str, object]:
    prompts = list(workload.prompts)
    negative = workload.negative_prompt
    optional: dict[str, object] = {
        "negative_prompt": [negative] * len(prompts) if negative and len(prompts) > 1 else negative,
        "guidance_scale": workload.guidance,
        "width": workload.width,
        "height": workload.height,
        "num_images_per_prompt": None
        if workload.images_per_prompt == 1
        else workload.images_per_prompt,
    }
    return {
        "prompt": prompts[0] if len(prompts) == 1 else prompts,
        "num_inference_steps": workload.steps,
        "generator": generators(workload),
        **{name: value for name, value in optional.items() if value is not None},
        **workload.arguments,
    }


def generators(workload: Workload) -> torch.Generator | list[torch.Generator]:
    """One generator a picture, seeded seed, seed + 1, …; on the CPU, so that no picture depends on
    the device."""
    import torch

    pictures = len(workload.prompts) * workload.images_per_prompt
    made = [torch.Generator("cpu").manual_seed(workload.seed + index) for index in range(pictures)]
    return made[0] if pictures == 1 else made


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
