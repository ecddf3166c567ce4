"""Private names of diffusers' step caches: their hooks, states and contexts, each with the reason.

`enable_cache` exists on some models alone, while the hooks work on any; so they are put on one by
one, and taken off by putting back what the registries held.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from torch import nn

from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers.hooks.hooks import ModelHook


class MagState(Protocol):
    """What a MagCache measured in one context while it calibrates."""

    calibration_ratios: list[float]


class HasBlocks(Protocol):
    """What diffusers knows of a block's class."""

    return_encoder_hidden_states_index: int | None


@contextmanager
def hooks_restored(model: nn.Module) -> Iterator[None]:
    """Afterwards each registry of hooks holds what it held, and knows of no other below it.

    A registry remembers which modules below it have registries, from the first call under a context
    on; within the block it looks again.
    """
    registries = [
        vars(module._diffusers_hook)
        for module in model.modules()
        if hasattr(module, "_diffusers_hook")
    ]
    before = [{name: _copied(value) for name, value in held.items()} for held in registries]
    for registry in registries:
        registry.pop("_child_registries_cache", None)
    try:
        yield
    finally:
        for registry, held in zip(registries, before, strict=True):
            registry.clear()
            registry.update(held)


def _copied(value: object) -> object:
    return value.copy() if isinstance(value, dict | list) else value


def all_hooks(model: nn.Module) -> list[ModelHook]:
    """diffusers' hooks on a model and in it."""
    registries = [getattr(module, "_diffusers_hook", None) for module in model.modules()]
    return [hook for registry in registries if registry for hook in registry.hooks.values()]


def stateful_hooks(model: nn.Module) -> list[ModelHook]:
    """Those that remember something from one evaluation to the next."""
    return [hook for hook in all_hooks(model) if hook._is_stateful]


def forget(model: nn.Module) -> None:
    """Let the caches on a model forget all earlier evaluations, and the context of this one."""
    from diffusers.models.cache_utils import CacheMixin

    if stateful_hooks(model):
        CacheMixin._reset_stateful_cache(model)


def context(model: nn.Module, name: str, **facts: object) -> AbstractContextManager[object]:
    """Within it the caches on a model keep what they remember under this name.

    `facts` say where the loop is (`step_index`, …), which versions before 0.40 have no way to say.
    """
    from diffusers.models.cache_utils import CacheMixin

    function: Callable[..., AbstractContextManager[object]] = CacheMixin.cache_context
    takes_facts = len(inspect.signature(function).parameters) > 2
    return function(model, name, **(facts if takes_facts else {}))


def mag_ratios(hook: ModelHook, name: str) -> list[float]:
    """What a calibrating MagCache measured so far in the context of that name."""
    state: MagState | None = hook.state_manager._state_cache.get(name)
    return [] if state is None else [*state.calibration_ratios]


def cacheable_attentions(model: nn.Module) -> list[str]:
    """Names of the attention modules that diffusers' attention caches know."""
    from diffusers.hooks._common import _ATTENTION_CLASSES

    return [
        name for name, module in model.named_modules() if isinstance(module, _ATTENTION_CLASSES)
    ]


def text_projections(model: nn.Module) -> Callable[[], list[nn.Module]]:
    """A function that gives the modules, as they are then, from which a TextKVCache on this model
    computes what it keeps. Its hook on the blocks names them."""
    from diffusers.hooks.text_kv_cache import _TEXT_KV_CACHE_BLOCK_HOOK

    blocks = [
        module
        for module in model.modules()
        if _TEXT_KV_CACHE_BLOCK_HOOK in hugging_face.diffusers_hooks(module)
    ]
    names = ("encoder_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.norm_added_k")

    def current() -> list[nn.Module]:
        modules = [attrgetter(name)(block) for block in blocks for name in names]
        return [module for module in (model.txt_norm, *modules) if isinstance(module, nn.Module)]

    return current


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that diffusers' block caches skip, in the order in which they are called."""
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS

    return [
        block
        for name, child in model.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(child, nn.ModuleList)
        for block in child
    ]


def metadata_of(block: nn.Module) -> HasBlocks | None:
    """What diffusers knows of a block's class; None where it does not know it."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    try:
        metadata: HasBlocks = TransformerBlockRegistry.get(type(block))
    except ValueError:
        return None
    return metadata


def unknown_to_first_block_cache(model: nn.Module) -> str | None:
    """The reason why diffusers' FirstBlockCache cannot cache this transformer; None where it can.

    It knows blocks by class, and raises for an unknown one only in the middle of a call.
    """
    unknown = _unknown_blocks(model, "FirstBlockCache")
    if unknown:
        return unknown
    blocks = transformer_blocks(model)
    if len(blocks) < 2:
        return "its transformer has no two blocks that FirstBlockCache knows"
    first, last = blocks[0], blocks[-1]
    if _gives_texts(first) != _gives_texts(last):
        return (
            f"diffusers' FirstBlockCache cannot subtract what {type(first).__name__} gives from "
            f"{type(last).__name__}'s"
        )
    return None


def unknown_to_mag_cache(model: nn.Module) -> str | None:
    """The reason why diffusers' MagCache cannot cache this transformer; None where it can."""
    if not transformer_blocks(model):
        return "its transformer has no blocks that MagCache knows"
    return _unknown_blocks(model, "MagCache")


def _unknown_blocks(model: nn.Module, cache: str) -> str | None:
    if any(name.startswith("temporal_") for name, _ in model.named_children()):
        return f"its blocks see pictures and frames in turns, which {cache} does not expect"
    for block in transformer_blocks(model):
        metadata, name = metadata_of(block), type(block).__name__
        if metadata is None:
            return f"diffusers' {cache} does not know {name}"
        texts = metadata.return_encoder_hidden_states_index is not None
        expected = {"hidden_states"} | ({"encoder_hidden_states"} if texts else set())
        if expected - set(inspect.signature(type(block).forward).parameters):
            return f"diffusers' {cache} does not find the states that {name} is given"
    return None


def _gives_texts(block: nn.Module) -> bool:
    """Whether a block gives the text's states beside the picture's: the last of some does not."""
    metadata = metadata_of(block)
    assert metadata is not None
    ends = getattr(block, "context_pre_only", False)
    return metadata.return_encoder_hidden_states_index is not None and not ends
