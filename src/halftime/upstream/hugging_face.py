"""Private names of diffusers and transformers, and of accelerate and peft as diffusers uses them,
each with the reason."""

from __future__ import annotations

import dis
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin
    from torch import nn

# ---- pipelines

# Where `set_progress_bar_config` keeps its keywords; there is no public way to read them, and they
# must be put back.
PROGRESS_BAR_CONFIG = "_progress_bar_config"
# The old name of `encode_prompt`, which pipelines from before 2023 still call.
OLD_ENCODE_PROMPT = "_encode_prompt"
# Where a pipeline's call looks for the device of its inputs: under offloading it is not the device
# that the weights are on.
EXECUTION_DEVICE = "_execution_device"


def execution_device(pipeline: DiffusionPipeline) -> torch.device | None:
    """Where the pipeline's call computes, by its offloading hooks if it has any; None for a
    pipeline without the property."""
    import torch

    device = getattr(pipeline, EXECUTION_DEVICE, None)
    return None if device is None else torch.device(device)


def unpacked_latents(
    pipeline: DiffusionPipeline, latents: torch.Tensor, width: int, height: int
) -> torch.Tensor | None:
    """Latents [batch, cells, channels] as [batch, channels, h, w]; None where the pipeline cannot.
    Flux and its kin pack their latents, and unpack them in a private method."""
    unpack = getattr(pipeline, "_unpack_latents", None)
    if unpack is None:
        return None
    unpacked: torch.Tensor = unpack(latents, height, width, pipeline.vae_scale_factor)
    return unpacked


class BlockOutput(Protocol):
    """One output of a modular pipeline's blocks, as diffusers declares it."""

    name: str


class BlockInput(BlockOutput, Protocol):
    """One input."""

    default: object
    required: bool


class Blocks(Protocol):
    """The blocks of a modular pipeline: what they take, and what they give."""

    inputs: list[BlockInput]
    outputs: list[BlockOutput]


def blocks_of(pipeline: object) -> Blocks | None:
    """The blocks of a modular pipeline; None for every other. The public property gives a copy,
    which takes seconds where blocks are many; diffusers 0.35 has a plain attribute there."""
    if not any(base.__name__ == "ModularPipeline" for base in type(pipeline).__mro__):
        return None
    private: Blocks | None = getattr(pipeline, "_blocks", None)
    return getattr(pipeline, "blocks", None) if private is None else private


def leaf_blocks(pipeline: object) -> Iterator[tuple[str, object]]:
    """Name and block of a modular pipeline's innermost blocks, a loop among them as a whole."""
    blocks = blocks_of(pipeline)
    yield from () if blocks is None else _leaves("", blocks)


def _leaves(name: str, block: object) -> Iterator[tuple[str, object]]:
    inner = {} if is_loop(block) else getattr(block, "sub_blocks", None) or {}
    if not inner:
        yield name, block
    for inner_name, inner_block in inner.items():
        yield from _leaves(inner_name, inner_block)


def is_loop(block: object) -> bool:
    """Whether a block runs its own blocks again and again, under a progress bar."""
    return any(base.__name__ == "LoopSequentialPipelineBlocks" for base in type(block).__mro__)


def dtype_keyword() -> str:
    """What `from_pretrained` calls a dtype: 'torch_dtype' in an older diffusers, which takes no
    notice of 'dtype' and keeps the file's; a newer one warns of the old name."""
    from diffusers.pipelines import pipeline_utils

    return "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"


def repository_of_checkpoint(file: str) -> str:
    """The repository whose configuration fits a single-file checkpoint, by diffusers' own guess
    from the names and shapes of its weights. `from_single_file` makes it without telling."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    config = fetch_diffusers_config(load_single_file_checkpoint(file))
    return str(config["pretrained_model_name_or_path"])


# ---- what a pipeline's call does, read off its compiled code


def guides_in_one_batch(pipeline: DiffusionPipeline) -> bool:
    """Whether the call evaluates the unconditional and the conditional input as two halves of one
    batch: its code has `[latents] * 2`, as diffusers writes it. False where there is no code."""
    kind = type(pipeline)
    return hasattr(kind, "do_classifier_free_guidance") and any(
        _doubles_latents(code) for code in codes_of(kind)
    )


def _doubles_latents(code: CodeType) -> bool:
    """Looks for: load latents, build a list of one, load 2, multiply."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "NOP")]
    return any(
        load.opname.startswith("LOAD_")
        and load.argval == "latents"
        and (build.opname, build.argval) == ("BUILD_LIST", 1)
        and (two.opname.startswith("LOAD_") and two.argval == 2)
        and (multiply.opname == "BINARY_OP" and multiply.argrepr == "*")
        for load, build, two, multiply in zip(steps, steps[1:], steps[2:], steps[3:], strict=False)
    )


def compares_scheduler_class(pipeline: DiffusionPipeline) -> bool:
    """Whether the call has `type(self.scheduler) != …`, as Bria's: a scheduler of a subclass then
    takes another path."""
    return any(map(_compares_scheduler_class, codes_of(type(pipeline))))


def _compares_scheduler_class(code: CodeType) -> bool:
    """Looks for: load type, load self, load scheduler, and a comparison soon after."""
    skipped = ("CACHE", "NOP", "PUSH_NULL", "PRECALL")
    steps = [step for step in dis.get_instructions(code) if step.opname not in skipped]
    return any(
        (load.argval, owner.argval, name.argval) == ("type", "self", "scheduler")
        and any(step.opname in ("COMPARE_OP", "IS_OP") for step in steps[index + 3 : index + 8])
        for index, (load, owner, name) in enumerate(zip(steps, steps[1:], steps[2:], strict=False))
    )


def sets_begin_index(pipeline: DiffusionPipeline) -> bool | None:
    """Whether the call tells the scheduler where it starts; None where there is no code to
    look at."""
    codes = codes_of(type(pipeline))
    return any("set_begin_index" in code.co_names for code in codes) if codes else None


def sets_cache_contexts(pipeline: DiffusionPipeline) -> bool:
    """Whether the call says which of its evaluations is which: diffusers' caches need it, and
    raise "No cache context is set" where it does not."""
    return any("cache_context" in code.co_names for code in codes_of(type(pipeline)))


def upcasts_vae(pipeline: DiffusionPipeline) -> bool:
    """Whether the call casts a VAE in fp16 up where its config says `force_upcast`, as SDXL's do.
    That config is AutoencoderKL's default, and most pipelines never ask for it."""
    parts = (pipeline, *(block for _, block in leaf_blocks(pipeline)))
    return any("force_upcast" in code.co_names for part in parts for code in codes_of(type(part)))


def codes_of(kind: type) -> list[CodeType]:
    """The code that a call of the class may run: its own `__call__`, that of the class which it
    extends wherever it hands on to it, and the functions defined inside. Empty where the call is
    not a Python function."""
    codes: list[CodeType] = []
    for base in kind.__mro__:
        call = vars(base).get("__call__")
        if call is None:
            continue
        code = getattr(inspect.unwrap(call), "__code__", None)
        if not isinstance(code, CodeType):
            break
        own = list(_nested(code))
        codes += own
        if not any({"super", "__call__"} & {*part.co_names} for part in own):
            break
    return codes


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


# ---- models


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that the model is made of many times, which `compile_repeated_blocks` compiles:
    diffusers lists their class names privately."""
    names = getattr(model, "_repeated_blocks", None) or ()
    return [module for module in model.modules() if type(module).__name__ in names]


def kept_in_fp32(model: nn.Module) -> tuple[str, ...]:
    """Names of submodules that lose their pictures in lower precision, by diffusers' own list."""
    return tuple(getattr(model, "_keep_in_fp32_modules", None) or ())


def not_cast_layerwise(model: nn.Module) -> tuple[str, ...]:
    """Patterns of the layers that diffusers keeps in their precision under layerwise casting, by
    each model's own list."""
    return tuple(getattr(model, "_skip_layerwise_casting_patterns", None) or ())


# They embed the timestep in `timestep.dtype`, and so need it in the dtype of their weights; other
# models turn its embedding into the dtype of the hidden states.
_IN_DTYPE_OF_TIMESTEP = frozenset(
    {
        "HunyuanDiT2DModel",
        "HunyuanImageTransformer2DModel",
        "HunyuanVideo15Transformer3DModel",
    }
)


def computes_in_dtype_of_timestep(model: nn.Module) -> bool:
    """Whether a model computes its embeddings in the dtype of the timestep that it is given."""
    return any(base.__name__ in _IN_DTYPE_OF_TIMESTEP for base in type(model).__mro__)


def unfusable_attention(model: nn.Module) -> str | None:
    """The class of an attention whose projections diffusers says it can fuse and cannot, because
    they are not called to_q, to_k and to_v, or read inputs of different widths, as between LTX-2's
    picture and its sound; None where there is none."""
    for module in model.modules():
        fuses = hasattr(module, "fuse_projections") and getattr(
            module, "_supports_qkv_fusion", True
        )
        if fuses and not _fusable(module):
            return type(module).__name__
    return None


def _fusable(attention: nn.Module) -> bool:
    projections = [getattr(attention, name, None) for name in ("to_q", "to_k", "to_v")]
    if None in projections:
        return False
    joined = projections[1:] if getattr(attention, "is_cross_attention", False) else projections
    return len({getattr(projection, "in_features", None) for projection in joined}) == 1


@contextmanager
def active_attention_backend_restored() -> Iterator[None]:
    """Afterwards the process's attention backend is what it was: setting one model's also sets
    that, and diffusers does not set it back."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    active = Registry._active_backend
    try:
        yield
    finally:
        Registry._active_backend = active


def attention_backend(model: nn.Module) -> str:
    """The backend of diffusers' that was set for a model; '' where none was. Nothing public says
    it: `set_attention_backend` only sets."""
    backends = (
        getattr(getattr(part, "processor", None), "_attention_backend", None)
        for part in model.modules()
    )
    return next((str(getattr(name, "value", name)) for name in backends if name is not None), "")


def set_attention_implementation(config: object, name: str) -> None:
    """Choose 'sdpa' or 'eager' in a transformers configuration: `from_config` takes it as an
    argument, and the classes themselves from here alone."""
    config._attn_implementation = name  # type: ignore[attr-defined]


# ---- hooks and adapters


def accelerate_hook(module: nn.Module) -> object | None:
    """The hook that accelerate put on this very module for offloading or a device map."""
    return getattr(module, "_hf_hook", None)


def diffusers_hooks(module: nn.Module) -> Mapping[str, object]:
    """Name -> diffusers' hook on this very module: 'group_offloading', 'layerwise_casting', …"""
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", None) or {}


def is_hooked(module: nn.Module) -> bool:
    """Whether a library's hooks decide where or how this very module runs. An empty registry of
    diffusers is left behind by each call of a pipeline that resets its caches."""
    return accelerate_hook(module) is not None or bool(diffusers_hooks(module))


class Governed(NamedTuple):
    """What a hook moves: weights by where they are kept, within a module."""

    module: nn.Module
    weights: dict[object, torch.Tensor]
    ahead: bool = False  # on a stream of its own, beside what computes


class Mover(NamedTuple):
    """A method in which a library moves weights from one device to another; `governed` takes what
    it is called with."""

    holder: type
    method: str
    governed: Callable[..., Governed]


def movers() -> Iterator[Mover]:
    """Of accelerate, where it is installed, and of diffusers. Nothing public says what was moved:
    `CpuOffload` and `UserCpuOffloadHook` move components, `AlignDevicesHook` layers, and
    `ModuleGroup` groups of them."""
    if importlib.util.find_spec("accelerate") is not None:
        from accelerate import hooks  # type: ignore[import-untyped]

        yield Mover(hooks.CpuOffload, "pre_forward", _entered)
        yield Mover(hooks.UserCpuOffloadHook, "offload", lambda hook: _all(hook.model))
        for method in ("pre_forward", "post_forward"):
            yield Mover(hooks.AlignDevicesHook, method, _aligned)
    from diffusers.hooks.group_offloading import ModuleGroup

    for method in ("onload_", "offload_"):
        yield Mover(ModuleGroup, method, _grouped)


def _entered(hook: object, module: nn.Module, *inputs: object, **named: object) -> Governed:
    return _all(module)


def _all(module: nn.Module) -> Governed:
    return Governed(module, _weights(module.modules()))


def _aligned(hook: Any, module: nn.Module, *inputs: object, **named: object) -> Governed:
    if not hook.offload:
        return Governed(module, {})
    return Governed(module, _weights(module.modules() if hook.place_submodules else [module]))


def _grouped(group: Any) -> Governed:
    weights = _weights(part for module in group.modules for part in module.modules())
    weights.update(enumerate([*group.parameters, *group.buffers]))
    return Governed(group.offload_leader, weights, group.stream is not None)


def _weights(modules: Iterable[nn.Module]) -> dict[object, torch.Tensor]:
    return {
        (id(module), name): tensor
        for module in modules
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


# What `enable_model_cpu_offload` leaves on a pipeline.
OFFLOADING_NOTES = ("_all_hooks", "_offload_gpu_id", "_offload_device")


def put_back_on_the_host(pipeline: DiffusionPipeline) -> None:
    """What a pipeline does at the end of a call under model offload (`maybe_free_model_hooks`),
    with its hooks left as they are: its own way takes them off and makes new ones, and what was put
    over the hooked methods meanwhile is lost."""
    for component in pipeline.components.values():
        if hasattr(component, "_reset_stateful_cache"):
            component._reset_stateful_cache()
    for hook in getattr(pipeline, "_all_hooks", None) or ():
        hook.offload()


# Parts of the names under which diffusers' step caches hook themselves onto a model and its blocks.
STEP_CACHES = ("cache", "fbc_", "pyramid_attention")


def has_step_cache(model: nn.Module) -> bool:
    """Whether one of diffusers' step caches is on, through the model or through its function."""
    return any(
        part in name
        for module in model.modules()
        for name in diffusers_hooks(module)
        for part in STEP_CACHES
    )


GROUP_OFFLOADING = "group_offloading"  # of `diffusers_hooks`
LAYERWISE_CASTING = "layerwise_casting"


def loaded_adapters(module: nn.Module) -> tuple[str, ...]:
    """Names of the peft adapters of a component. The flag tells a component that has had them from
    one that has them."""
    loaded = getattr(module, "_hf_peft_config_loaded", False) or hasattr(module, "peft_config")
    return tuple(getattr(module, "peft_config", None) or ()) if loaded else ()


def fused_adapters(pipeline: DiffusionPipeline) -> tuple[str, ...]:
    """Names of adapters that `fuse_lora` wrote into the weights; they stay there after their own
    layers are unloaded. The public `fused_loras` is missing from older versions."""
    return tuple(sorted(getattr(pipeline, "_merged_adapters", None) or ()))


def unmergeable_adapter(layer: nn.Module) -> str | None:
    """Why peft cannot write this layer's adapters into its weights; None where it can."""
    if not hasattr(layer, "merge") or not hasattr(layer, "get_base_layer"):
        return f"peft's {type(layer).__name__} cannot be merged into the weights"
    return None


def merged_copy(layer: nn.Module) -> nn.Module:
    """The base layer of one of peft's layers, over copies of its weights into which the active
    adapters are merged. `merge` writes in place and notes what it merged in lists, which are copies
    too; call where the attributes of both are put back."""
    from torch import nn

    base: nn.Module = layer.get_base_layer()  # type: ignore[operator]
    for name, tensor in base._parameters.items():
        if tensor is not None:
            copied = nn.Parameter(tensor.detach().clone(), requires_grad=False)
            base._parameters[name] = copied
    vars(layer)["merged_adapters"] = list(vars(layer)["merged_adapters"])
    layer.merge()  # type: ignore[operator]
    return base


def hotswaps(arguments: Mapping[str, object]) -> bool:
    """Whether a call of `load_lora_weights` writes into the adapter that is there already."""
    return bool(arguments.get("hotswap"))


# ---- schedulers


def show_step_index(scheduler: SchedulerMixin, index: int) -> None:
    """Set the step index where the scheduler has one: the property has no setter, and inpainting
    pipelines read it."""
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = index


def shift_of(scheduler: SchedulerMixin) -> object:
    """The shift of a flow-match scheduler, which `set_shift` changes without changing the
    configuration; None for others."""
    return getattr(scheduler, "_shift", None)


def scales_by_variance(scheduler: SchedulerMixin) -> bool:
    """Whether the scheduler's sample keeps its variance (signal² + noise² = 1) though it counts in
    sigmas: the multistep solvers do, and only they convert."""
    return hasattr(scheduler, "_sigma_to_alpha_sigma_t")


class LowRankAdapter(NamedTuple):
    """What an adapter adds to one layer: `scaling * up @ down`, and nothing else if it is `plain`
    (no DoRA, no bias)."""

    down: torch.Tensor
    up: torch.Tensor
    scaling: float
    plain: bool


def low_rank_adapter(layer: Any, adapter: str) -> LowRankAdapter | None:
    """The LoRA of that name on this very layer. peft keeps the parts of a layer in dictionaries by
    the adapter's name, and offers no way to read them."""
    if adapter in getattr(layer, "lora_embedding_A", {}):
        down = layer.lora_embedding_A[adapter]
        return LowRankAdapter(down, down, 1.0, plain=False)
    if adapter not in getattr(layer, "lora_A", {}):
        return None
    up = layer.lora_B[adapter]
    plain = adapter not in getattr(layer, "lora_magnitude_vector", {}) and up.bias is None
    return LowRankAdapter(
        layer.lora_A[adapter].weight.detach().cpu(),
        up.weight.detach().cpu(),
        float(layer.scaling[adapter]),
        plain,
    )
