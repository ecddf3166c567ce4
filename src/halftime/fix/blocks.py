"""Which blocks of `applied` are open, in which order they may be left, and what is refused inside.

Fixes keep the very objects that they replace and put them back. So blocks over one component are
undone in the reverse order of their beginning, also where the caller leaves them in another; and
what would be lost when a block ends, or would not be seen by a fix, is refused while it is open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base.errors import DoesNotApply
from halftime.fix.base import ChosenFix, Fix, Settings
from halftime.fix.guard import CHANGES, RUNTIMES, changed_components
from halftime.pipeline.change import patched, subclassed
from halftime.pipeline.components import modules_of
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# What changes the weights, hooks or processors of components, as methods of a pipeline or of one of
# its components. A fix that changes components would undo it, or not see it.
_OF_COMPONENTS = (
    "set_adapters",
    "set_adapter",
    "add_adapter",
    "delete_adapters",
    "enable_adapters",
    "disable_adapters",
    "enable_lora",
    "disable_lora",
    "fuse_lora",
    "unfuse_lora",
    "unload_lora",
    "load_lora_weights",
    "load_lora_adapter",
    "unload_lora_weights",
    "load_ip_adapter",
    "unload_ip_adapter",
    "set_ip_adapter_scale",
    "fuse_qkv_projections",
    "unfuse_qkv_projections",
    "enable_cache",
    "disable_cache",
    "enable_layerwise_casting",
    "enable_group_offload",
    "enable_model_cpu_offload",
    "enable_sequential_cpu_offload",
)
# Of those, what may write into an adapter in place.
_HOT_SWAPS = ("load_lora_weights", "load_lora_adapter")
# Whatever the fix: half of what a copy or a file would hold belongs to the block.
_OF_EVERY_BLOCK = ("save_pretrained", "push_to_hub", "__deepcopy__")
_SCHEDULES = frozenset({"schedule-table", "set-begin-index", "loop-graph", "solver-steps"})


@dataclass(eq=False)
class Block:
    """One `applied` block, from its beginning until it is undone."""

    holds: frozenset[int]  # identities of the pipeline and of the components that it changes
    names: str
    undo: ExitStack = field(default_factory=ExitStack)
    left: bool = False


_OPEN: list[Block] = []  # in the order of their beginning
_LOCK = threading.RLock()


@contextmanager
def block(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> Iterator[ExitStack]:
    """A block over this pipeline; what is entered into the stack is undone in the right order.

    Raises DoesNotApply when it is left before a block that was begun inside: both are then undone
    as soon as the inner one is left.
    """
    this = Block(_held(pipeline, chosen), ", ".join(fix.name for fix, _ in chosen))
    with _LOCK:
        _OPEN.append(this)
    try:
        ends = {"maybe_free_model_hooks": hugging_face.put_back_on_the_host}
        if hasattr(type(pipeline), "maybe_free_model_hooks"):
            this.undo.enter_context(subclassed(pipeline, ends))
        yield this.undo
    finally:
        _leave(this)


def is_open(pipeline: DiffusionPipeline) -> bool:
    """Whether a block of `applied` is open over this pipeline."""
    with _LOCK:
        return any(id(pipeline) in opened.holds for opened in _OPEN)


def _held(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> frozenset[int]:
    names = {
        name for fix, settings in chosen for name in changed_components(fix, pipeline, settings)
    }
    changed = {id(component) for name, component in modules_of(pipeline).items() if name in names}
    return frozenset({id(pipeline), *changed})


def _leave(this: Block) -> None:
    with _LOCK:
        this.left = True
        inner = _inside(this)
        # Those that were left too early wait for this one.
        for waiting in [candidate for candidate in reversed(_OPEN) if candidate.left]:
            if not _inside(waiting):
                _OPEN.remove(waiting)
                waiting.undo.close()
    if inner:
        raise DoesNotApply(
            f"the block of {this.names} was left before a block that was begun inside of it "
            f"({inner[-1].names}). Leave the inner block first; both are undone when it is left."
        )


def _inside(this: Block) -> list[Block]:
    """Open blocks over the same components that began later."""
    later = _OPEN[_OPEN.index(this) + 1 :]
    return [inner for inner in later if inner.holds & this.holds]


# ---- what is refused inside


@contextmanager
def sealed(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> Iterator[None]:
    """Within the block what a fix would undo, or would not see, raises DoesNotApply by name."""
    changers = [fix.name for fix, _ in chosen if fix.name in CHANGES or fix.name in RUNTIMES]
    with ExitStack() as stack:
        refused = {name: _refusing(name, chosen[0].fix.name) for name in _OF_EVERY_BLOCK}
        if changers:
            refused |= {name: _refusing(name, changers[0]) for name in _OF_COMPONENTS}
            for component in modules_of(pipeline).values():
                for name in _OF_COMPONENTS:
                    if hasattr(component, name):
                        method = refused[name]
                        if name in _HOT_SWAPS:
                            original = getattr(component, name)
                            method = _swapping(original, refused[name], chosen)
                        stack.enter_context(patched(component, name, method))
            for name in _HOT_SWAPS:
                if hasattr(type(pipeline), name):
                    refused[name] = _swapping(getattr(type(pipeline), name), refused[name], chosen)
        members: dict[str, object] = {
            name: function
            for name, function in refused.items()
            if name == "__deepcopy__" or hasattr(pipeline, name)
        }
        exchanged = _exchangers(pipeline, chosen)
        members["__setattr__"] = _setting(type(pipeline).__setattr__, exchanged)
        stack.enter_context(subclassed(pipeline, members))
        yield


def _refusing(name: str, fix: str) -> Callable[..., object]:
    action = {"__deepcopy__": "copy.deepcopy of the pipeline"}.get(name, name)

    def refuse(*_: object, **__: object) -> object:
        raise DoesNotApply(
            f"{action} is refused while the fix {fix!r} is on, since it would be lost or half "
            "done when the block ends. Leave the block of `applied` first, and enter it again."
        )

    return refuse


def _swapping(
    original: Callable[..., object], refuse: Callable[..., object], chosen: Sequence[ChosenFix]
) -> Callable[..., object]:
    """Loading an adapter is refused, unless it is written into the one that is there
    (`hotswap=True`) and every fix reads that one."""
    keepers = [fix.name for fix, settings in chosen if _keeps_adapters(fix, settings)]

    def load(*args: object, **kwargs: object) -> object:
        if not hugging_face.hotswaps(kwargs):
            return refuse()
        if keepers:
            raise DoesNotApply(
                f"hotswap is refused while the fix {keepers[0]!r} is on, since it keeps the "
                "adapter that was there when the block began. Leave it out (denoiser-compile: set "
                "freezing = false), or leave the block of `applied` first."
            )
        return original(*args, **kwargs)

    return load


def _keeps_adapters(fix: Fix, settings: Settings) -> bool:
    """Whether a fix works on a copy of the denoiser's weights, the adapter's among them."""
    if fix.name == "denoiser-compile":
        return bool(settings["freezing"])
    return fix.name in RUNTIMES or (fix.changes == "denoiser" and bool(fix.weights))


def _exchangers(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> dict[str, str]:
    """Component -> a fix of the block that works on it, and so would miss another in its place."""
    exchangers: dict[str, str] = {}
    for fix, settings in chosen:
        names = changed_components(fix, pipeline, settings)
        names |= {"scheduler"} if fix.name in _SCHEDULES else set()
        names |= {"vae"} if fix.name == "tiny-vae" else set()
        exchangers |= dict.fromkeys(names, fix.name)
    return exchangers


def _setting(
    original: Callable[..., None], exchangers: dict[str, str]
) -> Callable[[object, str, object], None]:
    def set_attribute(self: object, name: str, value: object) -> None:
        if name in exchangers and value is not vars(self).get(name):
            _refusing(f"setting pipeline.{name}", exchangers[name])()
        original(self, name, value)

    return set_attribute
