"""How a fix takes itself back: by keeping the original objects, never by converting them back."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor, nn

from halftime.upstream import pytorch

T = TypeVar("T")


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """What happens to the module in the block (weights, submodules, hooks, attributes) is undone.

    The tensors and submodules are kept, not copied: replace them, and do not write into them.
    """
    before = [(sub, dict(vars(sub)), _tables(sub)) for sub in module.modules()]
    try:
        yield
    finally:
        for sub, attributes, tables in before:
            vars(sub).clear()
            vars(sub).update(attributes)
            for table, content in tables:
                table.clear()
                table.update(content)


def _tables(module: nn.Module) -> list[tuple[dict[object, object], dict[object, object]]]:
    return [
        (value, dict(value))
        for value in vars(module).values()
        if type(value) in (dict, OrderedDict)
    ]


def replace_tensors(
    module: nn.Module, convert: Callable[[Tensor], Tensor], keep: tuple[str, ...] = ()
) -> None:
    """Replace each floating parameter and buffer by a converted copy; call inside `restored`.

    Submodules whose name contains a word of `keep` stay. Tied weights stay tied.
    """
    converted: dict[int, Tensor] = {}  # by the identity of a tensor that its module keeps alive
    for path, sub in module.named_modules():
        if any(word in path.split(".") for word in keep):
            continue
        for table in pytorch.tensor_tables(sub):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_floating_point():
                    table[name] = _converted(tensor, convert, converted)


def _converted(
    tensor: Tensor, convert: Callable[[Tensor], Tensor], converted: dict[int, Tensor]
) -> Tensor:
    if id(tensor) not in converted:
        new = convert(tensor.detach())
        converted[id(tensor)] = (
            nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
        )
    return converted[id(tensor)]


def like(original: Callable[..., object], function: Callable[..., object]) -> Callable[..., object]:
    """`function` with the name and the signature of `original`, which pipelines inspect."""
    return functools.wraps(original)(functools.partial(function))


def cast(value: T, dtype: torch.dtype) -> T:
    """Every floating tensor inside (dicts, lists, tuples, model outputs) in that dtype."""
    return pytorch.tree_map(  # type: ignore[no-any-return]
        lambda leaf: (
            leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        ),
        value,
    )


def first_tensor(*values: object) -> Tensor | None:
    """The first floating tensor among the arguments of a call."""
    leaves = pytorch.tree_leaves(values)
    return next(
        (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None
    )


# Words of arguments that say when or where: how far the denoising is, at which place a token
# stands, how large the picture is. Models embed them in fp32 themselves. In bf16, of 8 bits, step
# 975 would be step 976, and the picture another.
_PLACES = frozenset(
    {
        *("t", "time", "timestep", "timesteps", "sigma", "guidance"),
        *("ids", "coords", "rotary", "rope", "fps", "ratio", "resolution", "size"),
    }
)
_FEATURES = frozenset({"cond", "embed", "embeds"})  # `timestep_cond` is an embedding already


def is_place(argument: str) -> bool:
    """Whether an argument of this name says when or where, so that it keeps its dtype."""
    words = set(argument.split("_"))
    return bool(words & _PLACES) and not words & _FEATURES


def casting(
    function: Callable[..., T], dtype: torch.dtype, places: bool = False
) -> Callable[..., T]:
    """The function in another dtype: its arguments are cast to it, and its result back to the
    caller's. Arguments that say when or where stay as they are, except with `places`."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    def inward(name: str, value: object) -> object:
        if is_place(name) and not places:
            return value
        if type(value) is dict:
            return {key: inward(str(key), item) for key, item in value.items()}
        return cast(value, dtype)

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> T:
        first = first_tensor(args, kwargs)
        positional = [
            inward(name, value)
            for name, value in zip_longest(names[: len(args)], args, fillvalue="")
        ]
        named = {name: inward(name, value) for name, value in kwargs.items()}
        result = function(*positional, **named)
        return result if first is None else cast(result, first.dtype)

    return call
