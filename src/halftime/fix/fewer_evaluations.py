"""guidance-interval and step-cache: evaluate less of the denoiser. Look at the pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser, number
from halftime.fix.undo import restored
from halftime.pipeline.change import intercepted, patched
from halftime.pipeline.components import denoisers
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class Counter:
    """Which denoiser evaluation of the pipeline's current call this is, counted from 0."""

    index: int = 0

    def reset(self, arguments: dict[str, object]) -> dict[str, object]:
        self.index = 0
        return arguments

    def next(self) -> int:
        self.index += 1
        return self.index - 1


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
    counter = Counter()
    model = denoisers(pipeline)[0]
    forward = model.forward

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        steps = getattr(pipeline, "num_timesteps", None) or len(pipeline.scheduler.timesteps)
        progress = counter.next() / max(steps, 1)
        batch = _batch(args, kwargs)
        if start <= progress < stop or not pipeline.do_classifier_free_guidance or batch % 2:
            return forward(*args, **kwargs)
        half_args, half_kwargs = second_half(args, batch), second_half(kwargs, batch)
        assert isinstance(half_args, tuple)
        assert isinstance(half_kwargs, dict)
        # Twice the conditional answer: guidance then adds nothing.
        return _doubled(forward(*half_args, **half_kwargs))

    with intercepted(pipeline, counter.reset), patched(model, "forward", call):
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


# ---- step-cache


@dataclass
class DeepCache:
    """Keeps a UNet's deep features between steps (the idea of DeepCache, Ma et al., CVPR 2024).

    On most steps only the outermost resolution runs: all down blocks but the first, the middle, and
    all up blocks but the last answer with what they gave on the last full step.
    """

    every: int
    counter: Counter = field(default_factory=Counter)
    skip: bool = False
    batch: int = 0
    outputs: dict[str, object] = field(default_factory=dict)  # of each block on the last full step

    def decide(self, batch: int) -> None:
        """Before each evaluation: is it a full one? A new batch size makes it one, and so does an
        empty memory."""
        index = self.counter.next()
        if index == 0:
            self.outputs.clear()
        self.skip = index % self.every != 0 and batch == self.batch and bool(self.outputs)
        self.batch = batch

    def around(self, name: str, block: nn.Module) -> Callable[..., object]:
        """The forward of the block of that name, answered from memory on the steps between."""
        forward = block.forward

        @functools.wraps(forward)
        def call(*args: object, **kwargs: object) -> object:
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
def _unet_cached(
    pipeline: DiffusionPipeline, unet: nn.Module, settings: Settings
) -> Iterator[None]:
    cache = DeepCache(int(number(settings, "every")))
    forward = unet.forward

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        cache.decide(_batch(args, kwargs))
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(intercepted(pipeline, cache.counter.reset))
        stack.enter_context(patched(unet, "forward", call))
        for name, block in _deep_blocks(unet).items():
            stack.enter_context(patched(block, "forward", cache.around(name, block)))
        yield
        cache.outputs.clear()


@contextmanager
def _transformer_cached(model: nn.Module, settings: Settings) -> Iterator[None]:
    with restored(model):
        model.enable_cache(FirstBlockCacheConfig(threshold=number(settings, "threshold")))  # type: ignore[operator]
        try:
            yield
        finally:
            model.disable_cache()  # type: ignore[operator]


@contextmanager
def _cached(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        for model in denoisers(pipeline):
            if hasattr(model, "down_blocks"):
                stack.enter_context(_unet_cached(pipeline, model, settings))
            else:
                stack.enter_context(_transformer_cached(model, settings))
        yield


def _cache_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        None if number(settings, "every") >= 2 else "every must be 2 or more",
        *(_uncachable(model) for model in denoisers(pipeline)),
    )


def _uncachable(model: nn.Module) -> str | None:
    if hasattr(model, "down_blocks"):
        return None if len(model.up_blocks) > 1 else "its UNet has a single resolution"  # type: ignore[arg-type]
    if not hasattr(model, "enable_cache"):
        return "its transformer takes none of diffusers' caches"
    return hugging_face.unknown_to_first_block_cache(model)


GUIDANCE_INTERVAL = FixCode(_guidance_applies, _guided_within)
STEP_CACHE = FixCode(_cache_applies, _cached)
