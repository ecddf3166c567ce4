"""Whether guidance evaluates the denoiser twice, and whether the second half changes anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from halftime.pipeline.arguments import call_arguments, call_parameters
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Arguments of classifier-free guidance. Where a call has the first, the second only feeds a model
# that was trained to follow it, and doubles nothing.
SCALES = ("true_cfg_scale", "guidance_scale")


@dataclass(frozen=True)
class GuidanceFacts:
    """What the first step of a call showed."""

    evaluations: float  # of the denoiser, for each picture
    name: str = ""  # of the argument
    scale: float | None = None
    alike: bool = False  # both halves gave the same, bit for bit


@dataclass
class FirstStep:
    """What the denoiser gave in the first step: how many rows, and whether its two halves, or its
    two calls, are alike."""

    rows: int = 0
    calls: int = 0
    alike: bool = False
    _previous: torch.Tensor | None = field(default=None, repr=False)

    def saw(self, output: torch.Tensor) -> None:
        """Look at one output."""
        self.calls += 1
        self.rows += len(output)
        if self.calls == 1:
            halves = output.chunk(2)
            self.alike = len(halves) == 2 and torch.equal(*halves)
        elif self._previous is not None:
            self.alike = self.calls == 2 and torch.equal(output, self._previous)
        self._previous = output if self.calls == 1 else None

    def forget(self) -> None:
        """Let go of what was looked at."""
        self._previous = None


@contextmanager
def first_step_watched(pipeline: DiffusionPipeline, recorder: Recorder) -> Iterator[FirstStep]:
    """Look at what the denoisers give in the first step of a call within the block."""
    step = FirstStep()
    with ExitStack() as undo:
        for model in denoisers(pipeline):
            entry = pytorch.call_entry(model)
            watching = _watching(getattr(model, entry), step, recorder)
            undo.enter_context(patched(model, entry, watching))
        yield step
    step.forget()


def _watching(
    function: Callable[..., object], step: FirstStep, recorder: Recorder
) -> Callable[..., object]:
    @functools.wraps(function)
    def watched(*args: object, **kwargs: object) -> object:
        output = function(*args, **kwargs)
        first = next(iter(pytorch.tree_leaves(output)), None)
        if isinstance(first, torch.Tensor) and first.dim() and not recorder.step:
            step.saw(first)
        return output

    return watched


def guidance_facts(
    pipeline: DiffusionPipeline,
    workload: Workload,
    further: Mapping[str, object] | None,
    step: FirstStep,
) -> GuidanceFacts | None:
    """The facts of a call that was watched; None where its denoiser gave nothing to look at."""
    if not step.rows:
        return None
    pictures = len(workload.prompts) * workload.images_per_prompt
    arguments = call_arguments(pipeline, workload, further)
    parameters = call_parameters(pipeline)
    for name in SCALES:
        scale = arguments.get(name, parameters.default(name))
        if isinstance(scale, int | float):
            return GuidanceFacts(step.rows / pictures, name, float(scale), step.alike)
    return GuidanceFacts(step.rows / pictures, alike=step.alike)
