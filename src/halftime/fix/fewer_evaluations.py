"""guidance-interval, and step-cache for UNets: evaluate less of the denoiser. Look at the
pictures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser, number
from halftime.fix.calls import RunningCall, followed
from halftime.fix.hard_prompts import HardScore, hard_settings
from halftime.pipeline.change import patched
from halftime.pipeline.components import denoisers
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


# ---- guidance-interval


def second_half(value: object, batch: int) -> object:
    """The conditional half of every tensor that has the doubled batch in front."""

    def half(leaf: object) -> object:
        doubled = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch
        return leaf[batch // 2 :] if doubled and isinstance(leaf, Tensor) else leaf

    return pytorch.tree_map(half, value)


def _batch(args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    """The batch of a denoiser's call: of its first argument, which is `sample` or
    `hidden_states`."""
    first = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    return int(first.shape[0]) if isinstance(first, Tensor) else 1


def _doubled(value: object) -> object:
    return pytorch.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, value
    )


@contextmanager
def _guided_within(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    start, stop = number(settings, "start"), number(settings, "stop")
    model = denoisers(pipeline)[0]
    forward = model.forward

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        if not running.here:
            return forward(*args, **kwargs)
        steps = getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps)
        progress = running.next() / max(steps, 1)
        batch = _batch(args, kwargs)
        if start <= progress < stop or not pipeline.do_classifier_free_guidance or batch % 2:
            return forward(*args, **kwargs)
        half_args, half_kwargs = second_half(args, batch), second_half(kwargs, batch)
        assert isinstance(half_args, tuple)
        assert isinstance(half_kwargs, dict)
        # Twice the conditional answer: guidance then adds nothing.
        return _doubled(forward(*half_args, **half_kwargs))

    with followed(pipeline, "guidance-interval") as running, patched(model, "forward", call):
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


# ---- step-cache of a UNet; `halftime.fix.step_cache` has the transformers'


# Parameters of a denoiser that say what to draw, by which two evaluations of one step differ.
_CONDITIONING = ("encoder_hidden_states", "cap_feats", "context", "class_labels")
MOST_CONDITIONINGS = 8  # of one call; where each step makes new ones, none is met again


@dataclass
class Conditionings:
    """The conditionings of a call by number: evaluations of one number continue each other.

    A pipeline that evaluates the unconditional and the conditional input one after the other would
    else answer the second from what the first left, and their difference would be 0.
    """

    tensors: list[Tensor | None] = field(default_factory=list)  # held, so that no address is reused

    def number(self, conditioning: Tensor | None) -> int | None:
        """Its number, or None where it was not met before."""
        return next(
            (index for index, tensor in enumerate(self.tensors) if _is_same(tensor, conditioning)),
            None,
        )


def _is_same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether both are the same values in memory: compared by address, so nothing is read."""
    if left is None or right is None:
        return left is right
    return left is right or (
        left.device == right.device
        and left.data_ptr() == right.data_ptr()
        and (left.shape, left.stride(), left.dtype) == (right.shape, right.stride(), right.dtype)
    )


def conditions(parameters: Iterable[str]) -> bool:
    """Whether a denoiser with these parameters is told what to draw."""
    return any(name.startswith(_CONDITIONING) for name in parameters)


def conditioning_of(arguments: Mapping[str, object]) -> Tensor | None:
    """What a denoiser's call with these arguments, by name, is conditioned on."""
    for name, value in arguments.items():
        if name.startswith(_CONDITIONING):
            tensors = [leaf for leaf in pytorch.tree_leaves(value) if isinstance(leaf, Tensor)]
            if tensors:
                return tensors[0]
    return None


@dataclass
class DeepMemory:
    """What the deep blocks answered on the last full evaluation under one conditioning."""

    batch: int = 0
    evaluations: int = 0
    outputs: dict[str, object] = field(default_factory=dict)  # by block


@dataclass
class DeepCache:
    """Keeps a UNet's deep features between steps (the idea of DeepCache, Ma et al., CVPR 2024).

    On most steps only the outermost resolution runs: all down blocks but the first, the middle, and
    all up blocks but the last answer with what they gave on the last full step.
    """

    every: int
    full_steps: int = 0  # at the beginning of a call, evaluated in full
    skip: bool = False
    in_full: bool = False  # this call to its end
    conditionings: Conditionings = field(default_factory=Conditionings)
    memories: list[DeepMemory] = field(default_factory=list)
    memory: DeepMemory = field(default_factory=DeepMemory)  # of this evaluation

    @property
    def outputs(self) -> dict[str, object]:
        """Of each block on the last full evaluation."""
        return self.memory.outputs

    def begin(self) -> None:
        """A new call of the pipeline: nothing of the last one is used."""
        self.conditionings, self.memories = Conditionings(), []
        self.skip = self.in_full = False

    def decide(self, batch: int, conditioning: Tensor | None = None) -> None:
        """Before each evaluation: is it a full one? A new batch size makes it one, and so does an
        empty memory."""
        self.memory = self._memory_of(conditioning)
        since = self.memory.evaluations - max(0, self.full_steps - 1)  # the last that must be full
        due = self.in_full or since < 0 or since % self.every == 0
        self.skip = not due and batch == self.memory.batch and bool(self.memory.outputs)
        self.memory.batch = batch
        self.memory.evaluations += 1

    def _memory_of(self, conditioning: Tensor | None) -> DeepMemory:
        number = self.conditionings.number(conditioning)
        if number is None:
            if len(self.conditionings.tensors) == MOST_CONDITIONINGS:
                self.begin()
            self.conditionings.tensors.append(conditioning)
            self.memories.append(DeepMemory())
            number = -1
        return self.memories[number]

    def around(self, name: str, block: nn.Module, running: RunningCall) -> Callable[..., object]:
        """The forward of the block of that name, answered from memory on the steps between."""
        forward = block.forward

        @functools.wraps(forward)
        def call(*args: object, **kwargs: object) -> object:
            if not running.here:
                return forward(*args, **kwargs)
            if not self.skip:
                self.outputs[name] = forward(*args, **kwargs)
            return self.outputs[name]

        return call


def _deep_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """Name -> block of all but the outermost resolution."""
    down = list(unet.down_blocks.named_children())[1:]  # type: ignore[union-attr]
    up = list(unet.up_blocks.named_children())[:-1]  # type: ignore[union-attr]
    middle = getattr(unet, "mid_block", None)
    blocks = {f"down {name}": block for name, block in down}
    blocks |= {"middle": middle} if middle is not None else {}
    return blocks | {f"up {name}": block for name, block in up}


@contextmanager
def deep_cached(pipeline: DiffusionPipeline, unet: nn.Module, settings: Settings) -> Iterator[None]:
    """Within the block the UNet keeps its deep features for `every` steps."""
    full_steps, hard = int(number(settings, "full_steps")), hard_settings(settings)
    cache = DeepCache(int(number(settings, "every")), full_steps)
    score = HardScore(hard)
    forward = unet.forward
    parameters = list(inspect.signature(forward).parameters)

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        nonlocal score
        if not running.here:
            return forward(*args, **kwargs)
        step = running.next()
        if step == 0:
            cache.begin()
            score = HardScore(hard)
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        cache.decide(_batch(args, kwargs), conditioning_of(arguments))
        answer = forward(*args, **kwargs)
        if hard and step < full_steps:
            guided = bool(pipeline.do_classifier_free_guidance)
            if guided:
                score.see(answer)
            if step == full_steps - 1:  # a call that cannot be scored goes on in full
                cache.in_full = not guided or score.is_hard()
        return answer

    with ExitStack() as stack:
        running = stack.enter_context(followed(pipeline, "step-cache"))
        stack.enter_context(patched(unet, "forward", call))
        for name, block in _deep_blocks(unet).items():
            stack.enter_context(patched(block, "forward", cache.around(name, block, running)))
        yield
        cache.begin()


GUIDANCE_INTERVAL = FixCode(_guidance_applies, _guided_within)
