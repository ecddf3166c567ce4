"""guidance-interval: guidance on part of the steps; the others evaluate the conditional half of the
batch alone. Look at the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser, number
from halftime.fix.calls import RunningCall, followed
from halftime.fix.conditioning import batch_of
from halftime.fix.undo import like
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def second_half(value: object, batch: int) -> object:
    """The conditional half of every tensor that has the doubled batch in front."""

    def half(leaf: object) -> object:
        doubled = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch
        return leaf[batch // 2 :] if doubled and isinstance(leaf, Tensor) else leaf

    return pytorch.tree_map(half, value)


def _doubled(value: object) -> object:
    return pytorch.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, value
    )


@dataclass(eq=False)
class GuidedWithin:
    """A denoiser's forward, with guidance on the steps from `start` to `stop`, in shares of all."""

    pipeline: DiffusionPipeline
    forward: Callable[..., object]  # what it evaluates
    start: float
    stop: float
    running: RunningCall

    def guides(self, step: int, steps: int) -> bool:
        """Whether this step of so many is evaluated with guidance."""
        return self.start <= step / max(steps, 1) < self.stop

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not self.running.here:
            return self.forward(*args, **kwargs)
        pipeline = self.pipeline
        steps = getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps)
        guides = self.guides(self.running.next(), steps)
        batch = batch_of(args, kwargs)
        if guides or not pipeline.do_classifier_free_guidance or batch % 2:
            return self.forward(*args, **kwargs)
        half_args, half_kwargs = second_half(args, batch), second_half(kwargs, batch)
        assert isinstance(half_args, tuple)
        assert isinstance(half_kwargs, dict)
        # Twice the conditional answer: guidance then adds nothing.
        return _doubled(self.forward(*half_args, **half_kwargs))


@contextmanager
def _guided_within(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    start, stop = number(settings, "start"), number(settings, "stop")
    model = denoisers(pipeline)[0]
    with followed(pipeline, "guidance-interval") as running:
        guided = GuidedWithin(pipeline, model.forward, start, stop, running)
        with patched(model, "forward", like(model.forward, guided)):
            yield


def _guidance_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    start, stop = number(settings, "start"), number(settings, "stop")
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        None
        if 0 <= start < stop <= 1
        else f"start {start} and stop {stop} must satisfy 0 <= start < stop <= 1",
        None
        if hugging_face.guides_in_one_batch(pipeline)
        else "it does not evaluate guidance as two halves of one batch",
        None if len(denoisers(pipeline)) == 1 else "it has two denoisers",
    )


GUIDANCE_INTERVAL = FixCode(_guidance_applies, _guided_within)
