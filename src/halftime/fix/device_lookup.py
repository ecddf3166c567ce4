"""known-device: where the pipeline runs, looked up once.

diffusers answers `pipeline.device` by inspecting a signature, and `_execution_device` by walking
through every module of every component in search of offloading hooks, at each call. Without such
hooks both are the first module's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from halftime.fix.base import FixCode, Settings
from halftime.pipeline.change import subclassed
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn


def _modules(pipeline: DiffusionPipeline) -> list[nn.Module]:
    return [
        component for component in pipeline.components.values() if isinstance(component, nn.Module)
    ]


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    modules = _modules(pipeline)
    if not modules or not hasattr(type(pipeline), hugging_face.EXECUTION_DEVICE):
        return "the pipeline has no modules to ask"
    if any(hugging_face.is_hooked(sub) for module in modules for sub in module.modules()):
        return "a component has hooks (offloading), which decide where it runs"
    weights_on = next(modules[0].parameters()).device
    same = pipeline.device == hugging_face.execution_device(pipeline) == weights_on
    return None if same else "its components are on more than one device"


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    # The parameter is asked each time: a pipeline that is moved knows it.
    first = _modules(pipeline)[0]
    lookup = property(lambda self: next(first.parameters()).device)
    with subclassed(pipeline, {"device": lookup, hugging_face.EXECUTION_DEVICE: lookup}):
        yield


KNOWN_DEVICE = FixCode(_applies, _apply)
