"""From a workload to the keyword arguments of one call of a pipeline, whatever its call takes."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halftime.base.errors import BadWorkload, HalftimeWarning
from halftime.records import Workload

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Passed without a request for them, so dropped silently where a pipeline does not take them.
_DEFAULTED = {"prompt", "num_inference_steps", "generator"}


def vae_factor(pipeline: DiffusionPipeline) -> int:
    """Pixels per latent cell, along one side; 1 where the pipeline does not say."""
    factor = getattr(pipeline, "vae_scale_factor", None) or getattr(
        pipeline, "vae_scale_factor_spatial", None
    )
    return factor if isinstance(factor, int) and factor > 0 else 1


@dataclass(frozen=True)
class CallParameters:
    """What the call of a pipeline takes, over all calls that it extends.

    A call that takes **kwargs hands them on to the call that it extends, so what that one names is
    taken too. The **kwargs of diffusers' own calls only swallow names that it gave up.
    """

    defaults: Mapping[str, object]  # by name, the outermost call's first; Parameter.empty for none
    hands_on: bool  # takes **kwargs of the user's own
    takes_anything: bool  # no call that it extends closes the list

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.defaults)

    def takes(self, name: str) -> bool:
        """Whether the call can be given this keyword argument."""
        return name in self.defaults or self.takes_anything

    def default(self, name: str) -> object:
        """What the argument is where it is left out; None also where it must be given."""
        value = self.defaults.get(name)
        return None if value is inspect.Parameter.empty else value


def call_parameters(pipeline: DiffusionPipeline) -> CallParameters:
    """What the pipeline's call takes."""
    defaults: dict[str, object] = {}
    hands_on: list[bool] = []
    for base in type(pipeline).__mro__:
        if "__call__" not in vars(base):
            continue
        call = vars(base)["__call__"]
        parameters = list(inspect.signature(call).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in CATCH_ALL:
                defaults.setdefault(parameter.name, parameter.default)
        hands_on.append(
            any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
            and not call.__module__.startswith("diffusers.")
        )
        if not hands_on[-1]:
            break
    return CallParameters(defaults, hands_on[0] if hands_on else False, all(hands_on))


def call_arguments(pipeline: DiffusionPipeline, workload: Workload) -> dict[str, object]:
    """The keyword arguments of one call of `pipeline` for `workload`, with generators seeded anew.

    What the workload leaves open (None) is left to the pipeline. Raises BadWorkload for a field
    that was set and that the pipeline's call does not take, and for a size that its VAE cannot
    hold. A call that takes **kwargs of the user's own gets what was set in any case, with a
    HalftimeWarning where nothing names it.
    """
    arguments, parameters = _workload_arguments(pipeline, workload), call_parameters(pipeline)
    refused = {name for name in arguments if not parameters.takes(name)}
    if refused - _DEFAULTED and not parameters.hands_on:
        name = min(refused - _DEFAULTED)
        raise BadWorkload(_not_taken(type(pipeline).__name__, name, parameters.names))
    unnamed = sorted(set(workload.arguments) - set(parameters.names))
    if parameters.hands_on and unnamed:
        text = (
            f"{type(pipeline).__name__} names no argument {unnamed[0]!r}; it goes in by "
            "**kwargs, which may ignore it."
        )
        warnings.warn(text, HalftimeWarning, stacklevel=2)
    _check_size(pipeline, workload)
    return {name: value for name, value in arguments.items() if name not in refused & _DEFAULTED}


def _not_taken(pipeline: str, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{pipeline} takes no {name}.{hint} It takes: {', '.join(names)}."


def _workload_arguments(pipeline: DiffusionPipeline, workload: Workload) -> dict[str, object]:
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
    """One generator for each picture, seeded seed, seed + 1, …

    They are on the CPU, so that no picture depends on the device.
    """
    pictures = len(workload.prompts) * workload.images_per_prompt
    seeds = range(workload.seed, workload.seed + pictures)
    seeded = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return seeded[0] if pictures == 1 else seeded


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
