"""`audit`: run a pipeline on the shadow device and say where it would wait."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec
import torch

from halftime.base.errors import BadInput
from halftime.base.progress import Progress, silent
from halftime.base.version import version
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.components import pipelines_of
from halftime.pipeline.inputs import described
from halftime.pipeline.load import LoadedPipeline, load_or_take
from halftime.pipeline.state import state_of
from halftime.records import Finding, Workload
from halftime.records.audit import Audit, Site
from halftime.upstream import pytorch
from halftime.verbs.audit.ghost import is_ghost
from halftime.verbs.audit.home import bring_home
from halftime.verbs.audit.loop import loop_watched
from halftime.verbs.audit.mode import ShadowDevice
from halftime.verbs.audit.rules import TESTED_TORCH
from halftime.verbs.audit.sites import DRAWS, Sites

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
    return audit_loaded(load_or_take(pipeline, on_cpu(chosen)), chosen, arguments)


def on_cpu(workload: Workload) -> Workload:
    """The workload, loaded to the CPU unless it names a device: the shadow device starts there."""
    return msgspec.structs.replace(workload, device=workload.device or "cpu")


def audit_loaded(
    loaded: LoadedPipeline,
    workload: Workload,
    extra: dict[str, object] | None = None,
    *,
    generator: Literal["cpu", "cuda"] = "cpu",
    progress: Progress = silent,
) -> Audit:
    """As `audit`, for a loaded pipeline and with progress; `generator` says where noise is drawn,
    unless `extra` brings a generator."""
    pipeline = loaded.pipeline
    check_auditable(pipeline, without_values=is_ghost(pipeline))
    arguments = call_arguments(pipeline, workload, extra)
    workload = described(workload, extra)
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
            if generator == "cuda" and "generator" not in (extra or {}):
                arguments |= _drawn_on_device(arguments)
            device.sites.recording = True
            try:
                with pytorch.compilations_forgotten(), higher_order_refused():
                    pipeline(**arguments)
            finally:
                device.sites.recording = False
    result = _audit(loaded, workload, device, compiled)
    own = generator == "cpu" and "generator" in arguments and "generator" not in (extra or {})
    return _with_draws(result) if own else result


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
            "without quantization and offloading: waits do not depend on the weights, and copies "
            "that offloading adds in every step are not counted here."
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


def _drawn_on_device(arguments: Mapping[str, object]) -> dict[str, object]:
    """The generators of a call, each as one of the device with the same seed."""
    passed = arguments.get("generator")
    generators = passed if isinstance(passed, list) else [passed]
    moved = [
        torch.Generator("cuda").manual_seed(generator.initial_seed())
        for generator in generators
        if isinstance(generator, torch.Generator)
    ]
    if len(moved) != len(generators):
        return {}
    return {"generator": moved if isinstance(passed, list) else moved[0]}


def _with_draws(audit: Audit) -> Audit:
    """Says which copies are there since the audit itself passes a generator of the CPU."""
    copies = sum(site.count for site in audit.sites if site.in_loop and site.function == DRAWS)
    if not copies:
        return audit
    finding = Finding(
        id="noise-from-the-cpu",
        stage="denoise",
        message=f"{copies} copies are of noise that is drawn on the CPU, by the generator that "
        "audit passes so that pictures do not depend on the device: with --generator cuda, or "
        "generator=torch.Generator('cuda') in your call, they are not there",
        evidence={"copies": copies},
    )
    return msgspec.structs.replace(audit, findings=(finding, *audit.findings))


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


_HIGHER_ORDER = re.compile(r"no rule registered for HigherOrderOperator (\S+)|HOP (\S+)")


@contextmanager
def higher_order_refused() -> Iterator[None]:
    """Turns torch's refusal of an operator that takes functions into a sentence."""
    try:
        yield
    except NotImplementedError as error:
        named = _HIGHER_ORDER.search(str(error))
        if named is None:
            raise
        operator = named[1] or named[2]
        hint = (
            " Audit it with another attention backend, for example "
            "pipeline.transformer.set_attention_backend('native'): waits hardly depend on it."
            if operator.startswith("flex_attention")
            else " Take it out for the audit."
        )
        raise BadInput(
            f"this pipeline calls torch's higher-order operator {operator}, whose kernels are "
            f"compiled for a real device, and the shadow device cannot look into it.{hint}"
        ) from error


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
