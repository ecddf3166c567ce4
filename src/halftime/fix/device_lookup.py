"""known-device: where the pipeline runs, looked up once.

diffusers answers `pipeline.device` by inspecting a signature, and `_execution_device` by walking
through every module of every component in search of offloading hooks, at each call. Without such
hooks both are the first module's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from halftime.fix.base import FixCode, Settings

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

_HOOKS = ("_hf_hook", "_diffusers_hook")


def _modules(pipeline: DiffusionPipeline) -> list[nn.Module]:
    from torch import nn

    return [
        component for component in pipeline.components.values() if isinstance(component, nn.Module)
    ]


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    modules = _modules(pipeline)
    if not modules or not hasattr(type(pipeline), "_execution_device"):
        return "the pipeline has no modules to ask"
    hooked = any(
        hasattr(sub, hook) for module in modules for sub in module.modules() for hook in _HOOKS
    )
    if hooked:
        return "a component has hooks (offloading), which decide where it runs"
    same = pipeline.device == pipeline._execution_device == next(modules[0].parameters()).device
    return None if same else "its components are on more than one device"


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    # Properties live on the class, so the pipeline becomes an instance of a subclass of the same
    # name. The parameter is asked each time: a pipeline that is moved knows it.
    original, first = type(pipeline), _modules(pipeline)[0]
    where = property(lambda self: next(first.parameters()).device)
    names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    lookups = {"device": where, "_execution_device": where}
    pipeline.__class__ = cast(
        "type[DiffusionPipeline]", type(original.__name__, (original,), {**names, **lookups})
    )
    try:
        yield
    finally:
        pipeline.__class__ = original


KNOWN_DEVICE = FixCode(_applies, _apply)
