"""In what state a pipeline is, as plain data: what was loaded into it, hooked onto it, or shared.

Fixes and measurements that hold for a pipeline as it was published may not hold for one in such a
state. All of it is read off attributes, so it needs neither peft nor accelerate.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Literal

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from halftime.pipeline.components import (
    components_of,
    modules_of,
    pipelines_of,
    with_subclasses,
)
from halftime.upstream import hugging_face, pytorch

Offloading = Literal["model", "sequential", "group", "device map"]

# The first part of a weight's (or a layer's) module -> the library that quantised it.
_QUANTISERS = {
    "torchao": "torchao",
    "bitsandbytes": "bitsandbytes",
    "optimum": "quanto",
    "quanto": "quanto",
    "gguf": "gguf",
}
_QUANTISED_TYPES = {
    "Params4bit": "bitsandbytes",
    "Int8Params": "bitsandbytes",
    "Linear4bit": "bitsandbytes",
    "Linear8bitLt": "bitsandbytes",
    "GGUFParameter": "gguf",
    "GGUFLinear": "gguf",
    "QTensor": "quanto",
    "QModuleMixin": "quanto",
    "AffineQuantizedTensor": "torchao",
    "TorchAOBaseTensor": "torchao",
}


@dataclass(frozen=True)
class Adapter:
    """One LoRA, or another adapter of peft, by the name under which it was loaded."""

    name: str
    components: tuple[str, ...]
    active: bool  # in any of them
    fused: bool  # its weights are written into the component's own, in any of them


@dataclass(frozen=True)
class PipelineState:
    """What was done to a pipeline. Components are named as `components_of` names them.

    `adapters` are loaded now; `fused` names those whose weights are in the component's own, also
    where they were unloaded afterwards, as far as the pipeline says. `shared` are components that
    another pipeline in this process holds too; `repeated` those that this one holds under a second
    name.
    """

    adapters: tuple[Adapter, ...] = ()
    adapted: tuple[str, ...] = ()  # an adapter works beside the component's own weights
    fused: tuple[str, ...] = ()
    own_processors: tuple[str, ...] = ()  # attention goes through a class from outside diffusers
    ip_adapters: tuple[str, ...] = ()  # denoisers whose attention takes an image prompt
    offloading: tuple[tuple[str, Offloading], ...] = ()  # (component, how)
    layerwise_casting: tuple[str, ...] = ()
    hooks: tuple[tuple[str, str], ...] = ()  # (component, name) of diffusers' other hooks
    forward_hooks: tuple[str, ...] = ()  # of torch, set by the user, on the component or in it
    meta: tuple[str, ...] = ()  # with a weight that has a shape and no values
    quantised: tuple[tuple[str, str], ...] = ()  # (component, library)
    compiled: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing was done to it, as far as can be seen."""
        return self == PipelineState()


def state_of(pipeline: DiffusionPipeline) -> PipelineState:
    """Look at a pipeline without running or changing it."""
    modules = modules_of(pipeline)
    adapters = _adapters(modules)
    fused = {adapter.name for adapter in adapters if adapter.fused}
    return PipelineState(
        adapters=adapters,
        adapted=_having(modules, _is_adapted),
        own_processors=_having(modules, _has_own_processors),
        fused=tuple(sorted(fused | {*hugging_face.fused_adapters(pipeline)})),
        ip_adapters=_having(modules, _takes_image_prompts),
        offloading=tuple(
            (name, how) for name, module in modules.items() if (how := _offloading(module))
        ),
        layerwise_casting=_having(modules, _casts_layerwise),
        hooks=tuple(
            (name, hook) for name, module in modules.items() for hook in _other_hooks(module)
        ),
        forward_hooks=_having(modules, _has_forward_hooks),
        meta=_having(modules, lambda module: any(weight.is_meta for weight in _weights(module))),
        quantised=tuple(
            (name, library) for name, module in modules.items() if (library := quantised_by(module))
        ),
        compiled=_having(modules, pytorch.is_compiled),
        shared=_shared(pipeline),
        repeated=_repeated(pipeline),
    )


def _having(modules: dict[str, nn.Module], holds: Callable[[nn.Module], bool]) -> tuple[str, ...]:
    return tuple(name for name, module in modules.items() if holds(module))


def _weights(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _names_of_types(value: object) -> frozenset[str]:
    return _names_of_bases(type(value))  # type: ignore[arg-type]  # mypy: a class is hashable


@functools.cache
def _names_of_bases(kind: type) -> frozenset[str]:
    return frozenset(base.__name__ for base in kind.__mro__)


# ---- adapters


def _adapters(modules: dict[str, nn.Module]) -> tuple[Adapter, ...]:
    holders: dict[str, list[str]] = {}
    active: set[str] = set()
    fused: set[str] = set()
    for name, module in modules.items():
        for adapter in hugging_face.loaded_adapters(module):
            holders.setdefault(adapter, []).append(name)
        for layer in adapter_layers(module):
            fused.update(getattr(layer, "merged_adapters", ()))
            active.update(_active(layer))
    return tuple(
        Adapter(name, tuple(components), active=name in active, fused=name in fused)
        for name, components in holders.items()
    )


def adapter_layers(module: nn.Module) -> Iterator[nn.Module]:
    """peft's layers in a component, each around a layer of the model."""
    return (layer for layer in module.modules() if "BaseTunerLayer" in _names_of_types(layer))


def adapter_settings(layer: nn.Module) -> tuple[str, ...]:
    """How one of peft's layers is set, besides its weights."""
    names = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
    return tuple(str(getattr(layer, name, None)) for name in names)


def _active(layer: nn.Module) -> set[str]:
    if getattr(layer, "disable_adapters", False):
        return set()
    return set(getattr(layer, "active_adapters", ()))


def unfused_adapter_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Those of peft's layers that compute beside the model's own in every call."""
    return (layer for layer in adapter_layers(module) if _unfused(layer))


def working_adapters(module: nn.Module) -> tuple[str, ...]:
    """The adapters that are paid for in each call of a component: active, and not fused."""
    names = {name for layer in adapter_layers(module) for name in _unfused(layer)}
    return tuple(sorted(names))


def _unfused(layer: nn.Module) -> set[str]:
    return _active(layer) - set(getattr(layer, "merged_adapters", ()))


def _is_adapted(module: nn.Module) -> bool:
    return any(True for _ in unfused_adapter_layers(module))


def _has_own_processors(module: nn.Module) -> bool:
    processors = getattr(module, "attn_processors", None)
    return isinstance(processors, dict) and any(
        not type(processor).__module__.startswith("diffusers.")
        for processor in processors.values()
        if processor is not None
    )


def _takes_image_prompts(module: nn.Module) -> bool:
    processors = getattr(module, "attn_processors", None)
    return isinstance(processors, dict) and any(
        "IPAdapter" in type(processor).__name__ for processor in processors.values()
    )


# ---- hooks


def offloading_of(pipeline: DiffusionPipeline) -> dict[str, Offloading]:
    """Component -> how its weights are moved, of those that are."""
    kinds = {name: _offloading(module) for name, module in modules_of(pipeline).items()}
    return {name: kind for name, kind in kinds.items() if kind}


def _offloading(module: nn.Module) -> Offloading | None:
    kinds = {kind for part in module.modules() for kind in _hook_kinds(part)}
    for kind in ("group", "sequential", "model", "device map"):
        if kind in kinds:
            return kind
    return None


def _hook_kinds(module: nn.Module) -> Iterator[Offloading]:
    if hugging_face.GROUP_OFFLOADING in hugging_face.diffusers_hooks(module):
        yield "group"
    hook = hugging_face.accelerate_hook(module)
    for single in getattr(hook, "hooks", None) or ([] if hook is None else [hook]):
        kinds = _names_of_types(single)
        if "CpuOffload" in kinds:
            yield "model"
        elif "AlignDevicesHook" in kinds:  # also where weights stay on several devices
            yield "sequential" if getattr(single, "offload", False) else "device map"


def _casts_layerwise(module: nn.Module) -> bool:
    return any(
        hugging_face.LAYERWISE_CASTING in hugging_face.diffusers_hooks(part)
        for part in module.modules()
    )


def _other_hooks(module: nn.Module) -> list[str]:
    names = {name for part in module.modules() for name in hugging_face.diffusers_hooks(part)}
    return sorted(names - {hugging_face.GROUP_OFFLOADING, hugging_face.LAYERWISE_CASTING})


def _has_forward_hooks(module: nn.Module) -> bool:
    return any(pytorch.own_forward_hooks(part) for part in module.modules())


# ---- weights


def quantised_by(module: nn.Module) -> str | None:
    """The library that holds a weight of this module in fewer bits; None where none does.

    Known by the types of weights and layers, since each library marks a model in its own way.
    """
    kinds = {type(value) for value in (*_weights(module), *module.modules())}
    return next(filter(None, map(_quantiser_of, kinds)), None)


def _quantiser_of(kind: type) -> str | None:
    for base in kind.__mro__:
        library = _QUANTISED_TYPES.get(base.__name__) or _QUANTISERS.get(
            base.__module__.partition(".")[0]
        )
        if library is not None:
            return library
    return None


# ---- sharing


def _shared(pipeline: DiffusionPipeline) -> tuple[str, ...]:
    """Components that another live pipeline holds. Only where one seems to is the garbage
    collected first: a pipeline that nobody can reach any more shares nothing."""
    if not _held_elsewhere(pipeline):
        return ()
    gc.collect()
    return _held_elsewhere(pipeline)


def _held_elsewhere(pipeline: DiffusionPipeline) -> tuple[str, ...]:
    own = pipelines_of(pipeline)
    elsewhere = {
        id(component)
        for holder in _live_pipelines()
        if not any(holder is part for part in own)
        for component in vars(holder).values()
    }
    return tuple(
        name for name, component in components_of(pipeline).items() if id(component) in elsewhere
    )


def _live_pipelines() -> Iterator[DiffusionPipeline]:
    """Every pipeline in this process. A process holds millions of objects, so that the search
    runs in C."""
    objects = gc.get_objects()
    kinds = {*with_subclasses(DiffusionPipeline)}
    return compress(objects, map(kinds.__contains__, map(type, objects)))


def _repeated(pipeline: DiffusionPipeline) -> tuple[str, ...]:
    """Later names of a module that the pipeline holds under an earlier one."""
    identities: set[int] = set()
    repeated = []
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            if id(component) in identities:
                repeated.append(name)
            identities.add(id(component))
    return tuple(repeated)
