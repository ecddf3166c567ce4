"""Quantised weights beside a step cache: the noise of one forward, against the change of one step.

A cache reuses or extrapolates what earlier steps computed. Where a forward's rounding is as large
as the change from step to step, what it compares or extrapolates is noise, and the picture flickers
(reported in cosmos-framework 247). Both are measured, before the two are put together: one call as
the pipeline is, and a few of its evaluations again under the plan's weights.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from halftime.fix.base import ChosenFix
from halftime.fix.conditioning import Conditionings, conditioning_of
from halftime.fix.step_cache import kind_of
from halftime.fix.undo import first_tensor
from halftime.pipeline.arguments import call_parameters
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers
from halftime.records.fixes import FixName
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NOISY: FixName = "denoiser-quantize"
_WEIGHTS: tuple[FixName, ...] = ("denoiser-dtype", _NOISY)  # measured together, as they are put on
_STEPS = 28  # of a call that names no number
_REPEATED = (1, 2, 4, 8, 16, 32)  # evaluations that are made again, counted from 0

# What of one forward's noise is in what a cache works with, by kind. It reuses an output as it is;
# or decides by the difference of two (their noises add up to the root of 2); or draws the line
# through two of them one step further, 2 y1 - y0 (the root of 4 + 1).
_REUSES, _COMPARES, _EXTRAPOLATES = 1.0, math.sqrt(2), math.sqrt(5)
CARRIED: dict[str, float] = {
    "deep": _REUSES,
    "pyramid-attention": _REUSES,
    "faster": _REUSES,
    "first-block": _COMPARES,
    "mag": _COMPARES,
    "sea": _COMPARES,
    "taylorseer": _EXTRAPOLATES,
    "taylorseer-lite": _EXTRAPOLATES,
    "text-kv": 0.0,  # what it keeps does not change from step to step
}


class NoiseFigures(NamedTuple):
    """Both relative to the denoiser's output, medians over a call."""

    change: float  # from one step to the next
    noise: float  # of one forward with the plan's weights, on the same input

    def complaint(self, kind: str) -> str:
        """Why a cache of this kind would work on noise; '' where it would not."""
        carried = CARRIED[kind] * self.noise
        if carried < self.change:
            return ""
        return (
            f"the quantised weights change the denoiser's output by {self.noise:.2g} of itself, of "
            f"which a cache of kind {kind!r} carries {carried:.2g} on, and from one step to the "
            f"next it changes by {self.change:.2g}: the cache would repeat noise, and the picture "
            "flickers. Leave one of the two out, take fewer steps, or a finer kind such as "
            "'int8-weight-only'"
        )


@dataclass
class Recorded:
    """The evaluations of one denoiser in one call: how much its output changes between them, and
    some of them whole."""

    conditionings: Conditionings = field(default_factory=Conditionings)
    earlier: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)
    changes: list[float] = field(default_factory=list)
    whole: list[tuple[tuple[object, ...], dict[str, object], Tensor]] = field(default_factory=list)
    count: int = 0

    def add(
        self,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        arguments: dict[str, object],
        output: Tensor,
    ) -> None:
        """One evaluation; compared with the last under the same conditioning and of its shape."""
        conditioning = conditioning_of(arguments)
        number = self.conditionings.number(conditioning)
        if number is None:
            number = len(self.conditionings.tensors)
            self.conditionings.tensors.append(conditioning)
        key = number, tuple(output.shape)
        if key in self.earlier:
            self.changes.append(difference(output, self.earlier[key]))
        self.earlier[key] = output
        if self.count in _REPEATED:
            self.whole.append((*_copied((args, kwargs)), output))
        self.count += 1


def difference(left: Tensor, right: Tensor) -> float:
    """The norm of the difference of two tensors, over that of the right one."""
    left, right = left.double(), right.double()
    return float((left - right).norm() / right.norm().clamp_min(1e-12))


def _copied(
    values: tuple[tuple[object, ...], dict[str, object]],
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Inputs as they are now: a pipeline may write into its latents."""
    copies: tuple[tuple[object, ...], dict[str, object]] = pytorch.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, values
    )
    return copies


def asks(chosen: Sequence[ChosenFix]) -> bool:
    """Whether a plan puts quantised weights and a cache together."""
    names = {choice.fix.name for choice in chosen}
    return {_NOISY, "step-cache"} <= names


def steps_of_call(pipeline: DiffusionPipeline) -> int:
    """How many steps a call has that names no number."""
    default = call_parameters(pipeline).defaults.get("num_inference_steps")
    return default if isinstance(default, int) else _STEPS


def complaint(
    pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix], draw: Callable[[], object]
) -> str:
    """Why this plan's cache would work on its quantised weights' noise; '' where it would not, or
    where nothing could be measured. `draw` makes a call as the pipeline is."""
    cache = next(choice for choice in chosen if choice.fix.name == "step-cache")
    for model, figures in measured(pipeline, chosen, draw):
        words = figures.complaint(kind_of(model, cache.settings))
        if words:
            return words
    return ""


def measured(
    pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix], draw: Callable[[], object]
) -> list[tuple[nn.Module, NoiseFigures]]:
    """The figures of each denoiser that evaluates more than once under one conditioning."""
    models = denoisers(pipeline)
    with ExitStack() as stack:
        records = [stack.enter_context(_recorded(model)) for model in models]
        draw()
    figures: list[tuple[nn.Module, NoiseFigures]] = []
    with ExitStack() as stack:
        for choice in chosen:
            if choice.fix.name in _WEIGHTS:
                stack.enter_context(choice.fix.apply(pipeline, choice.settings))
        for model, record in zip(models, records, strict=True):
            if record.changes and record.whole:
                noise = median(_noises(model, record))
                figures.append((model, NoiseFigures(median(record.changes), noise)))
    return figures


def _noises(model: nn.Module, record: Recorded) -> Iterator[float]:
    with torch.no_grad():
        for args, kwargs, output in record.whole:
            again = first_tensor(model(*args, **kwargs))
            if again is not None:
                yield difference(again, output)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Recorded]:
    """Within it each evaluation of the model is noted."""
    record = Recorded()
    forward = model.forward
    parameters = list(inspect.signature(forward).parameters)

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        result = forward(*args, **kwargs)
        output = first_tensor(result)
        if output is not None:
            arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
            record.add(args, kwargs, arguments, output.detach())
        return result

    with patched(model, "forward", call):
        yield record
