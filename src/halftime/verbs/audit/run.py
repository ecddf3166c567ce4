"""`audit`: run a pipeline on the shadow device and say where it would wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.version import version
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.components import pipelines_of
from halftime.pipeline.load import LoadedPipeline, load
from halftime.pipeline.state import state_of
from halftime.records import Workload
from halftime.records.audit import Audit, Site
from halftime.upstream import pytorch
from halftime.verbs.audit.ghost import is_ghost
from halftime.verbs.audit.home import bring_home
from halftime.verbs.audit.loop import loop_watched
from halftime.verbs.audit.mode import ShadowDevice
from halftime.verbs.audit.rules import TESTED_TORCH
from halftime.verbs.audit.sites import Sites

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

STEPS = 20


def audit(
    pipeline: DiffusionPipeline | str | None = None,
    workload: Workload | None = None,
    **arguments: object,
) -> Audit:
    """Where CPU and GPU would wait for each other in one call of `pipeline`, found without a GPU.

    `pipeline` is a diffusers pipeline on the CPU, or what `halftime.load_pipeline` takes; it is
    moved to the shadow device and back. `arguments` go to its call as they are. Weights and sizes
    hardly matter, since waits do not depend on them: tiny random components do. Raises
    HalftimeError, and what the pipeline's call raises; RuntimeError where another audit is running.
    """
    chosen = workload or Workload(steps=STEPS)
    if isinstance(pipeline, str) or pipeline is None:
        return audit_loaded(load(pipeline, chosen), chosen, arguments)
    loaded = LoadedPipeline(pipeline, type(pipeline).__name__, ())
    return audit_loaded(loaded, chosen, arguments)


def audit_loaded(
    loaded: LoadedPipeline,
    workload: Workload,
    extra: dict[str, object] | None = None,
    *,
    progress: Progress = silent,
) -> Audit:
    """As `audit`, for a loaded pipeline and with progress."""
    pipeline = loaded.pipeline
    check_auditable(pipeline, without_values=is_ghost(pipeline))
    arguments = {**call_arguments(pipeline, workload), **(extra or {})}
    compiled = [name for name, part in pipeline.components.items() if pytorch.is_compiled(part)]
    with ShadowDevice(without_values=is_ghost(pipeline)) as device:
        device.sites.recording = False  # moving the weights is not part of the call
        device.sites.on_step = lambda step: progress("steps", step, workload.steps)
        progress("before the loop", 0, workload.steps)
        with on_device(pipeline), loop_watched(pipeline, device):
            # Ready embeddings belong where an encoder or a prior would have left them.
            arguments = {
                name: value.to("cuda")
                if isinstance(value, torch.Tensor) and "embed" in name
                else value
                for name, value in arguments.items()
            }
            device.sites.recording = True
            try:
                with pytorch.compilations_forgotten():
                    pipeline(**arguments)
            finally:
                device.sites.recording = False
    return _audit(loaded, workload, device, compiled)


def check_auditable(pipeline: DiffusionPipeline, *, without_values: bool = False) -> None:
    """Raises BadInput where the pipeline's state cannot be moved to the shadow device."""
    state = state_of(pipeline)
    obstacles = [
        *(f"{name} is quantised by {library}" for name, library in state.quantised),
        *(f"{name} is under {way} offload" for name, way in state.offloading),
        *(f"{name} is under layerwise casting" for name in state.layerwise_casting),
        *(f"{name} has weights without values" for name in state.meta if not without_values),
    ]
    if obstacles:
        raise BadInput(
            f"this pipeline cannot be audited: {'; '.join(obstacles)}. Audit it as it was loaded, "
            "without quantization and offloading: waits do not depend on the weights."
        )


def _audit(
    loaded: LoadedPipeline, workload: Workload, device: ShadowDevice, compiled: list[str]
) -> Audit:
    sites = device.sites
    records = sites.as_records()
    in_loop = [site for site in records if site.in_loop]
    return Audit(
        halftime=version(),
        model=loaded.name,
        pipeline=type(loaded.pipeline).__name__,
        scheduler=type(getattr(loaded.pipeline, "scheduler", None)).__name__,
        torch=str(torch.__version__),
        workload=workload,
        steps_seen=sites.steps_seen,
        sites=records,
        in_loop_total=sum(site.count for site in in_loop),
        in_loop_d2h=sum(site.count for site in in_loop if site.direction == "d2h"),
        in_loop_h2d=sum(site.count for site in in_loop if site.direction == "h2d"),
        capturable=not in_loop and sites.steps_seen > 0 and not compiled,
        because=tuple(_against_capture(in_loop, sites, compiled)),
        findings=device.steps.findings(),
        not_seen=tuple(_not_seen(compiled, sites)),
    )


def _against_capture(in_loop: list[Site], sites: Sites, compiled: list[str]) -> Iterator[str]:
    for site in in_loop:
        yield f"{site.file}:{site.line} waits {site.count} times ({site.kind})"
    if not sites.steps_seen:
        yield "no denoising loop was seen"
    for name in compiled:
        yield (
            f"{name} is compiled, and whether it waits was not seen; audit the pipeline before "
            "it is compiled"
        )


def _not_seen(compiled: list[str], sites: Sites) -> Iterator[str]:
    yield "Triton kernels, custom CUDA extensions and waits inside CUDA libraries"
    for name in compiled:
        yield f"{name} is compiled: what happens inside of compiled regions"
    if not torch.__version__.startswith(TESTED_TORCH):
        yield (
            f"the rules were read off torch {', '.join(TESTED_TORCH)}, and this is "
            f"{torch.__version__}"
        )
    if not sites.steps_seen:
        yield (
            "the denoising loop: it is known by progress_bar() or by scheduler.step, and this "
            "pipeline used neither"
        )
    elif sites.barless:
        yield (
            "what the first step does before scheduler.step: without a progress_bar() the loop "
            "is known from there on"
        )


@contextmanager
def on_device(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The pipeline's modules on the shadow device; afterwards they hold the tensors they held.

    What else the call left there (a scheduler's tables, caches that a model fills) comes back to
    the CPU.
    """
    modules = [
        module
        for component in pipeline.components.values()
        if isinstance(component, torch.nn.Module)
        for module in component.modules()
    ]
    tables = [table for module in modules for table in pytorch.tensor_tables(module)]
    before = [dict(table) for table in tables]
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    # new parameters instead of changed ones
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        pipeline.to("cuda")
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        for table, tensors in zip(tables, before, strict=True):
            table.update(tensors)
        bring_home(*pipelines_of(pipeline), *pipeline.components.values())
