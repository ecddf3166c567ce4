"""What the state of a pipeline forbids: one table, read before a fix counts as applying.

A fix is written for a pipeline as it was published. What was done to it since (adapters, hooks,
quantised or shared weights) is looked at in `halftime.pipeline.state` alone, and each row here
names the fixes that would be wrong then, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from halftime.fix.base import Fix, Settings
from halftime.pipeline.components import components
from halftime.pipeline.device import device_of
from halftime.pipeline.state import PipelineState, state_of
from halftime.records.fixes import FIX_ROWS, FixName

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Names = frozenset[FixName]

CHANGES = {row.name: row.changes for row in FIX_ROWS.values() if row.changes}
RUNTIMES: Names = frozenset(row.name for row in FIX_ROWS.values() if row.is_runtime)
EVERY_CHANGE: Names = RUNTIMES | frozenset(CHANGES)


def _with_weights(*ways: str) -> Names:
    return frozenset(row.name for row in FIX_ROWS.values() if row.weights in ways)


# What hangs on the old modules is not called in new ones.
REPLACE_MODULES = _with_weights("in new modules")
COPY_WEIGHTS = REPLACE_MODULES | _with_weights("copied")
COMPILERS = _with_weights("compiled in")


class Refusal(NamedTuple):
    """A state of some components that some fixes cannot take."""

    state: str  # a short name
    components: Callable[[PipelineState], tuple[str, ...]]
    fixes: Names
    sentence: str  # with {names}, the components; what is wrong, and what to do


def _offloaded(*ways: str) -> Callable[[PipelineState], tuple[str, ...]]:
    return lambda state: tuple(name for name, way in state.offloading if way in ways)


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "sequential or group offload",
        _offloaded("sequential", "group"),
        COPY_WEIGHTS | COMPILERS,
        "the weights of {names} are moved layer by layer (sequential or group offload), and this "
        "fix reads them where they are not. Leave offloading off, or use enable_model_cpu_offload",
    ),
    Refusal(
        "model offload",
        _offloaded("model", "device map"),
        RUNTIMES | {"loop-graph"},
        "the weights of {names} are moved between calls (model offload or a device map), and this "
        "fix keeps them where they were first. Leave offloading off",
    ),
    Refusal(
        "layerwise casting",
        lambda state: state.layerwise_casting,
        COPY_WEIGHTS | COMPILERS,
        "{names} stores its weights in another dtype than it computes in (layerwise casting), "
        "and this fix would take the stored ones. Leave enable_layerwise_casting out",
    ),
    Refusal(
        "quantised",
        lambda state: tuple(name for name, _ in state.quantised),
        COPY_WEIGHTS | {"loop-graph"},
        "the weights of {names} are quantised ({libraries}), and this fix would copy or cast "
        "them. Load the component without quantization to use it",
    ),
    Refusal(
        "meta",
        lambda state: state.meta,
        COPY_WEIGHTS | COMPILERS,
        "{names} has weights without values (on the meta device). Load them first",
    ),
    Refusal(
        "adapter",
        lambda state: state.adapted,
        frozenset({"fused-qkv"}),
        "an adapter (LoRA) is active on {names}, and fused projections leave it out. Write it "
        "into the weights first: pipeline.fuse_lora(), then pipeline.unload_lora_weights()",
    ),
    Refusal(
        "IP-Adapter",
        lambda state: state.ip_adapters,
        frozenset({"fused-qkv"}),
        "the attention of {names} takes an image prompt (IP-Adapter), which fused projections do "
        "not. Call pipeline.unload_ip_adapter() first, or leave this fix out",
    ),
    Refusal(
        "own processors",
        lambda state: state.own_processors,
        frozenset({"fused-qkv"}),
        "the attention of {names} goes through a processor of your own, which fused projections "
        "would replace. Call set_default_attn_processor() first, or leave this fix out",
    ),
    Refusal(
        "diffusers' hooks",
        lambda state: tuple(dict.fromkeys(name for name, _ in state.hooks)),
        RUNTIMES | {"step-cache", "loop-graph"},
        "{names} has hooks of diffusers on it (a cache, or layer skipping), which this fix would "
        "leave out or double. Call disable_cache() first",
    ),
    Refusal(
        "torch's hooks",
        lambda state: state.forward_hooks,
        REPLACE_MODULES | RUNTIMES | {"loop-graph"},
        "{names} has forward hooks of torch, which this fix would not call. Remove them first",
    ),
    Refusal(
        "shared",
        lambda state: state.shared,
        EVERY_CHANGE,
        "{names} is held by another live pipeline too, whose pictures would change with it. "
        "Delete that pipeline, or make it with from_pipe() inside the block",
    ),
)


def why_not(
    fix: Fix,
    pipeline: DiffusionPipeline,
    settings: Settings,
    state: PipelineState | None = None,
    device: torch.device | None = None,
) -> str | None:
    """Why a fix cannot be put on this pipeline as it is, or None. `settings` are complete;
    `state` is the pipeline's, where it was looked at already, and `device` where it will compute,
    which under `offload` need not be where it is."""
    state = state_of(pipeline) if state is None else state
    # where it can be put is decided from where it is
    device = device_of(pipeline) if device is None or fix.name == "offload" else device
    return refused_by_state(fix, pipeline, settings, state) or fix.applies(
        pipeline, device, settings
    )


def refused_by_state(
    fix: Fix, pipeline: DiffusionPipeline, settings: Settings, state: PipelineState
) -> str | None:
    """The sentence of the first row that forbids the fix here."""
    if state.plain:
        return None
    changed = changed_components(fix, pipeline, settings)
    for row in REFUSALS:
        names = [name for name in row.components(state) if name in changed]
        if fix.name in row.fixes and names:
            libraries = sorted({library for name, library in state.quantised if name in names})
            return row.sentence.format(names=" and ".join(names), libraries=", ".join(libraries))
    return None


def changed_components(fix: Fix, pipeline: DiffusionPipeline, settings: Settings) -> set[str]:
    """Names of the components that the fix changes while it is on."""
    parts = fix.parts(settings) if fix.name in RUNTIMES else {CHANGES.get(fix.name, "")}
    return {name for part in parts for name in components(pipeline, part)}
