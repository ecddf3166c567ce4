"""step-cache of a UNet: its deep features are kept between steps (the idea of DeepCache, Ma et al.,
CVPR 2024).

The fix decides at each evaluation. What runs then is one of two passes, the full one and the
shallow one; both are functions of their arguments alone, so that a runtime or `loop-graph` converts
them, and the decision stays.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from halftime.fix.base import Settings, number
from halftime.fix.calls import RunningCall, followed
from halftime.fix.conditioning import (
    MOST_CONDITIONINGS,
    Conditionings,
    batch_of,
    conditioning_of,
    sample_of,
)
from halftime.fix.hard_prompts import HardScore, hard_settings
from halftime.fix.undo import like
from halftime.pipeline.change import patched
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

T = TypeVar("T")
Forward = Callable[..., object]
Build = Callable[[Callable[..., object]], Callable[..., object]]  # converts or compiles a function

# The UNets whose last up block is known to need nothing of the deep blocks but their features.
_TWO_PASSES = ("UNet2DConditionModel",)


# ---- what runs when


@dataclass
class DeepMemory:
    """What the deep blocks answered on the last full evaluation under one conditioning."""

    batch: int = 0
    evaluations: int = 0
    outputs: dict[str, object] = field(default_factory=dict)  # by block


@dataclass
class DeepCache:
    """Keeps a UNet's deep features between steps.

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

    def around(self, name: str, block: nn.Module, running: RunningCall) -> Forward:
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

    @contextmanager
    def on(self, memory: DeepMemory, skip: bool) -> Iterator[None]:
        """Within it the blocks fill this memory, or answer from it."""
        before = self.memory, self.skip
        self.memory, self.skip = memory, skip
        try:
            yield
        finally:
            self.memory, self.skip = before


# ---- the UNet's forward


@dataclass(eq=False)
class CachedForward:
    """A UNet's forward under the cache."""

    pipeline: DiffusionPipeline
    forward: Forward  # over the blocks that the cache is around
    deepest: str  # the deep block whose output the outermost resolution takes
    cache: DeepCache
    hard: list[float]
    running: RunningCall
    score: HardScore = field(init=False)
    batch: int = 0  # of this call's first evaluation
    shapes: dict[object, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.score = HardScore(self.hard)
        self.parameters = list(inspect.signature(self.forward).parameters)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not self.running.here:
            return self.forward(*args, **kwargs)
        step, batch = self.running.next(), batch_of(args, kwargs)
        self.decide(step, batch, self._conditioning(args, kwargs))
        answer = self.forward(*args, **kwargs)
        self.see(step, answer, guided=self._guided(batch))
        return answer

    def _guided(self, batch: int) -> bool:
        """Whether an evaluation has both halves of the batch, which guidance-interval takes one of
        on later steps."""
        return bool(self.pipeline.do_classifier_free_guidance) and batch == self.batch

    def _conditioning(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Tensor | None:
        return conditioning_of({**dict(zip(self.parameters, args, strict=False)), **kwargs})

    # What it decides.

    def decide(self, step: int, batch: int, conditioning: Tensor | None) -> bool:
        """Before each evaluation, from step 0 of a call on: whether a shallow pass is enough."""
        if step == 0:
            self.cache.begin()
            self.score, self.batch = HardScore(self.hard), batch
        self.cache.decide(batch, conditioning)
        return self.cache.skip

    def see(self, step: int, answer: object, *, guided: bool) -> None:
        """After each full evaluation; the last of the first ones says how the call goes on. One
        that cannot be scored goes on in full."""
        if not self.hard or step >= self.cache.full_steps:
            return
        if guided:
            self.score.see(answer)
        if step == self.cache.full_steps - 1:
            self.cache.in_full = not guided or self.score.is_hard()

    @property
    def features(self) -> object:
        """The deep features that the next shallow pass takes; set after each full pass."""
        return self.cache.outputs[self.deepest]

    @features.setter
    def features(self, value: object) -> None:
        self.cache.outputs[self.deepest] = value

    # What runs.

    def full(self, *args: object, **kwargs: object) -> tuple[object, object]:
        """The whole UNet: its answer, and its deep features."""
        memory = DeepMemory()
        with self.cache.on(memory, skip=False):
            answer = self.forward(*args, **kwargs)
        self.shapes[_shape(args, kwargs)] = {
            name: pytorch.tree_map(_blank, output) for name, output in memory.outputs.items()
        }
        return answer, memory.outputs[self.deepest]

    def shallow(self, features: object, *args: object, **kwargs: object) -> object:
        """The outermost resolution, on features of a full pass. What the other deep blocks answer
        is read by no block that runs: it has their shape, which is known from a full pass."""
        outputs = {**self.shapes[_shape(args, kwargs)], self.deepest: features}
        with self.cache.on(DeepMemory(outputs=outputs), skip=True):
            return self.forward(*args, **kwargs)

    def through(self, build: Build) -> Forward:
        """This forward with both passes converted or compiled by `build`."""
        full, shallow = build(self.full), build(self.shallow)

        def call(*args: object, **kwargs: object) -> object:
            if not self.running.here:
                return full(*args, **kwargs)[0]  # type: ignore[index]
            step, batch = self.running.next(), batch_of(args, kwargs)
            if self.decide(step, batch, self._conditioning(args, kwargs)):
                return shallow(self.features, *args, **kwargs)
            result = cast("tuple[object, object]", full(*args, **kwargs))
            answer, self.features = result
            self.see(step, answer, guided=self._guided(batch))
            return answer

        return call


def _shape(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    sample = sample_of(args, kwargs)
    return None if sample is None else tuple(map(int, sample.shape))


def _blank(leaf: object) -> object:
    """Zeros of the tensor's shape that take the memory of one."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.zeros((), dtype=leaf.dtype, device=leaf.device).expand(*map(int, leaf.shape))


def beneath(forward: object, kind: type[T]) -> T | None:
    """The object of a fix that a patched forward calls, where it is of that kind."""
    function = getattr(forward, "func", None)
    return function if isinstance(function, kind) else None


def converted(forward: Forward, build: Build) -> Forward:
    """A denoiser's forward through `build`; where a cache is on it, both of its passes."""
    cached = beneath(forward, CachedForward)
    return build(forward) if cached is None else cached.through(build)


def full_steps_to_end(steps: int, every: int, fewest: int) -> int:
    """The fewest full steps, from `fewest` on, after which the last step of a call is full, too.

    First and last steps matter most: on the bundled model (500 prompts, 30 steps, every second
    step kept) 3.0 % of the pictures differ visibly with the last step kept, 1.6 % without, and
    1.2 % with six full steps at first (docs/tune.md).
    """
    return fewest + (steps - fewest) % every


def deep_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """Name -> block of all but the outermost resolution, in the order in which they run."""
    down = list(unet.down_blocks.named_children())[1:]  # type: ignore[union-attr]
    up = list(unet.up_blocks.named_children())[:-1]  # type: ignore[union-attr]
    middle = getattr(unet, "mid_block", None)
    blocks = {f"down {name}": block for name, block in down}
    blocks |= {"middle": middle} if middle is not None else {}
    return blocks | {f"up {name}": block for name, block in up}


def no_two_passes(unet: nn.Module) -> str | None:
    """Why a UNet cannot be evaluated as a full and a shallow pass, or None."""
    if type(unet).__name__ not in _TWO_PASSES:
        return f"its {type(unet).__name__} is not known to run as a full and a shallow pass"
    first = unet.down_blocks[0].resnets  # type: ignore[index, union-attr]
    last = unet.up_blocks[-1].resnets  # type: ignore[index, union-attr]
    if len(last) != len(first) + 1:
        return "its last up block takes more than the first down block gives"
    return None


@contextmanager
def deep_cached(pipeline: DiffusionPipeline, unet: nn.Module, settings: Settings) -> Iterator[None]:
    """Within the block the UNet keeps its deep features for `every` steps."""
    blocks = deep_blocks(unet)
    cache = DeepCache(int(number(settings, "every")), int(number(settings, "full_steps")))
    with ExitStack() as stack:
        running = stack.enter_context(followed(pipeline, "step-cache"))
        cached = CachedForward(
            pipeline, unet.forward, list(blocks)[-1], cache, hard_settings(settings), running
        )
        stack.enter_context(patched(unet, "forward", like(unet.forward, cached)))
        for name, block in blocks.items():
            stack.enter_context(patched(block, "forward", cache.around(name, block, running)))
        yield
        cache.begin()
