"""What adapters that were not fused cost: their own layers, timed in a short call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import nn

from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.components import denoisers
from halftime.pipeline.device import device_of
from halftime.pipeline.state import adapter_layers, working_adapters
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.profile.clock import Mark, clock_for
from halftime.verbs.profile.probe import short

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# peft's layers hold their own parts under these names, beside the layer that they adapt.
OWN_PARTS = ("lora_A", "lora_B", "lora_dropout", "lora_embedding_A", "lora_embedding_B")


def adapter_share(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> float:
    """The share of the denoisers' time that the layers of unfused adapters take; 0 without them,
    and where a denoiser is compiled, which hides its layers."""
    models = [model for model in denoisers(pipeline) if working_adapters(model)]
    if not models or any(map(pytorch.is_compiled, models)):
        return 0.0
    clock = clock_for(device_of(pipeline))
    calls: list[Mark] = []
    within: list[Mark] = []
    with ExitStack() as undo:
        for model in models:
            _marked(model, calls, clock.mark, undo)
            for layer in adapter_layers(model):
                for part in _own_parts(layer):
                    _marked(part, within, clock.mark, undo)
        origin = clock.start()
        pipeline(**call_arguments(pipeline, short(workload), further))
        clock.finish()
    total = _between(clock.seconds(origin, calls))
    return _between(clock.seconds(origin, within)) / total if total else 0.0


def _own_parts(layer: nn.Module) -> list[nn.Module]:
    return [
        module
        for name, holder in layer.named_children()
        if name in OWN_PARTS
        for module in holder.children()
    ]


def _marked(
    module: nn.Module, marks: list[Mark], mark: Callable[[], Mark], undo: ExitStack
) -> None:
    """Mark the beginning and the end of each call of a module, within the block."""
    before = module.register_forward_pre_hook(lambda *_: marks.append(mark()))
    after = module.register_forward_hook(lambda *_: marks.append(mark()))
    undo.callback(before.remove)
    undo.callback(after.remove)


def _between(moments: list[float]) -> float:
    """Of beginnings and ends in turns."""
    return sum(end - begin for begin, end in zip(moments[::2], moments[1::2], strict=True))
