"""offload: the weights on the host, and on the accelerator what is needed: a component, a group of
blocks, or a layer at a time. It saves memory, and costs time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from halftime.fix.base import ChosenFix, FixCode, Settings, one_of, text
from halftime.fix.undo import replace_tensors, restored
from halftime.pipeline.components import denoisers, modules_of
from halftime.pipeline.device import device_of
from halftime.upstream import diffusers_caches, hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

KINDS = ("model", "group", "leaf", "auto")
_FOR_WEIGHTS = 0.75  # of the memory; the rest is for what the pipeline computes
_BYTES = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_PREFETCHED = 2  # groups on the device at once: the one that computes, and the next


class Weights(NamedTuple):
    """Bytes of one component: all, and the largest of the blocks that are moved one by one."""

    total: int
    blocks: int = 0  # all of them together
    largest_block: int = 0

    @property
    def in_groups(self) -> int:
        """What is on the device at most where blocks are moved one by one."""
        return self.total - self.blocks + min(self.blocks, _PREFETCHED * self.largest_block)


def bytes_of(memory: str) -> int | None:
    """12000000000 for '12GB'; None where it is no amount of memory."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)\s*", memory.upper())
    if match is None or match[2] not in _BYTES:
        return None
    return int(float(match[1]) * _BYTES[match[2]])


def kind_within(memory: int, components: Sequence[Weights]) -> str:
    """The way that moves least and fits: '' where everything stays on the device."""
    room = _FOR_WEIGHTS * memory
    if sum(component.total for component in components) <= room:
        return ""
    if max(component.total for component in components) <= room:
        return "model"
    return "group" if max(component.in_groups for component in components) <= room else "leaf"


def weights_of(pipeline: DiffusionPipeline) -> list[Weights]:
    """The bytes of each component; of denoisers, and of no others, the blocks are moved."""
    moved = {id(model) for model in denoisers(pipeline)}
    return [
        _in_blocks(module) if id(module) in moved else Weights(_size(module), _size(module))
        for module in modules_of(pipeline).values()
    ]


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _in_blocks(module: nn.Module) -> Weights:
    sizes = [_size(block) for block in diffusers_caches.transformer_blocks(module)]
    return Weights(_size(module), sum(sizes), max(sizes, default=0))


def accelerator(own: torch.device) -> torch.device | None:
    """Where a pipeline on its `own` device computes: there, or from the CPU on the current card;
    None on a machine without one."""
    if own.type == "cuda":
        return own
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def computing_device(own: torch.device, chosen: Sequence[ChosenFix]) -> torch.device:
    """Where a pipeline on its `own` device computes with these fixes on."""
    offloaded = any(choice.fix.name == "offload" for choice in chosen)
    return (accelerator(own) if offloaded else None) or own


# ---- the fix


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    memory = text(settings, "memory")
    if reason := one_of(settings, "kind", KINDS):
        return reason
    if accelerator(device) is None:
        return "there is no accelerator whose memory could be saved"
    if (settings["kind"] == "auto") != bool(memory):
        return "memory and kind = 'auto' go together: kind = 'auto', memory = '12GB'"
    if memory and bytes_of(memory) is None:
        return f"memory is {memory!r}; it must be like '12GB' or '800MiB'"
    parts = [part for module in modules_of(pipeline).values() for part in module.modules()]
    if any(map(hugging_face.is_hooked, parts)):
        return "its weights are moved by hooks already"
    kind = kind_of(pipeline, settings)
    if not kind:
        return f"all of its weights fit into {memory}, and moving them would only cost time"
    if kind == "model" and not getattr(pipeline, "model_cpu_offload_seq", None):
        return (
            f"{type(pipeline).__name__} does not say in which order its components run; use 'leaf'"
        )
    return None


def kind_of(pipeline: DiffusionPipeline, settings: Settings) -> str:
    """The kind that the settings name, or the one that fits into the memory which they name."""
    named = text(settings, "kind")
    if named != "auto":
        return named
    return kind_within(bytes_of(text(settings, "memory")) or 0, weights_of(pipeline))


@contextmanager
def _offloaded(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    device = accelerator(device_of(pipeline))
    assert device is not None
    kind = kind_of(pipeline, settings)
    with ExitStack() as stack:
        for module in modules_of(pipeline).values():
            stack.callback(module.to, _device_of(module))  # at the very end, without hooks
            stack.enter_context(restored(module))
            if _device_of(module).type == "cpu":
                # Handles of its own over the same numbers: moving them frees nothing on the host,
                # and leaves alone whoever shares the weights.
                replace_tensors(module, lambda tensor: tensor)
            stack.enter_context(diffusers_caches.hooks_restored(module))
        stack.enter_context(_attributes_restored(pipeline))
        if kind == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            _by_groups(pipeline, device, kind)
        yield


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def _by_groups(pipeline: DiffusionPipeline, device: torch.device, kind: str) -> None:
    """Blocks of the denoisers, layers of all else, the next prefetched while one computes."""
    from diffusers.hooks import apply_group_offloading

    moved = {id(model) for model in denoisers(pipeline)}
    for module in modules_of(pipeline).values():
        in_blocks = (
            kind == "group"
            and id(module) in moved
            and bool(diffusers_caches.transformer_blocks(module))
        )
        level: dict[str, object] = {"offload_type": "leaf_level"}
        if in_blocks:
            level = {"offload_type": "block_level", "num_blocks_per_group": 1}
        module.to("cpu")
        apply_group_offloading(
            module,
            onload_device=device,
            offload_device=torch.device("cpu"),
            use_stream=device.type == "cuda",
            **level,
        )


@contextmanager
def _attributes_restored(pipeline: DiffusionPipeline) -> Iterator[None]:
    """What offloading notes on the pipeline object is taken away again."""
    before = dict(vars(pipeline))
    try:
        yield
    finally:
        for name in hugging_face.OFFLOADING_NOTES:
            vars(pipeline).pop(name, None)
            if name in before:
                vars(pipeline)[name] = before[name]


OFFLOAD = FixCode(_applies, _offloaded)
