"""Would this call of an operation wait? The rules that need to look at the arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from halftime.verbs.audit.rules import (
    CHECKS_IF_ASKED,
    COPY_TO_DEVICE,
    COPY_TO_HOST,
    INDEXING,
    READS_BACK,
    SCALAR_READ,
    Wait,
)
from halftime.verbs.audit.tensor import ShadowTensor

_MASKS = (torch.bool, torch.uint8)


def waits(
    name: str,
    overload: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    to: torch.device | None,
    pinned: set[int],
) -> Iterator[Wait]:
    """The waits of one call: `name` and `overload` of the operation, `to` the device that it asks
    for, if any."""
    if name == "aten::_to_copy":
        yield from _to_copy(args[0], kwargs, to)
    elif name in ("aten::copy_", "aten::copy"):
        yield from _copy(args, kwargs, pinned)
    elif name in INDEXING:
        yield from _indexing(name, args)
    elif name == "aten::repeat_interleave" and overload == "Tensor":
        if kwargs.get("output_size") is None:
            yield Wait("nonzero")
    elif (name, overload) in SCALAR_READ:
        if isinstance(args[SCALAR_READ[name, overload]], ShadowTensor):
            yield Wait("item")
    elif name == "aten::where" and overload == "self":
        yield from (Wait(COPY_TO_DEVICE) for value in args if not isinstance(value, ShadowTensor))
    elif name in ("aten::linspace", "aten::logspace"):
        yield from (Wait("item") for value in args[:2] if isinstance(value, ShadowTensor))
    elif name in BY_ARGUMENTS:
        yield from BY_ARGUMENTS[name](args, kwargs)
    elif name in CHECKS_IF_ASKED:
        if _argument(args, kwargs, CHECKS_IF_ASKED[name], "check_errors", False):
            yield Wait("check")
    else:
        kind = READS_BACK.get(name) or READS_BACK.get(f"{name}.{overload}")
        if kind:
            yield Wait(kind)


def _argument(
    args: Sequence[object], kwargs: Mapping[str, object], position: int, name: str, default: object
) -> object:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _histc(args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[Wait]:
    """Without a range it is read off the data."""
    low, high = (
        _argument(args, kwargs, position, name, 0) for position, name in ((2, "min"), (3, "max"))
    )
    if low == high and _numel(args[0]):
        yield Wait("check")


def _isin(args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[Wait]:
    """Among many, both sides are sorted, and made unique unless they are said to be."""
    elements, among = _numel(args[0]), _numel(args[1])
    sorts = (
        elements > 0 and among >= int(10 * elements**0.145) and isinstance(args[1], torch.Tensor)
    )
    if sorts and not _argument(args, kwargs, 2, "assume_unique", False):
        yield Wait("nonzero")


def _multinomial(args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[Wait]:
    """The fast way, for no replacement or one draw, checks the probabilities on the host."""
    draws = _argument(args, kwargs, 1, "num_samples", 1)
    if draws == 1 or not _argument(args, kwargs, 2, "replacement", False):
        yield Wait("check")


def _numel(value: object) -> int:
    return value.numel() if isinstance(value, torch.Tensor) else 1


Rule = Callable[[Sequence[object], Mapping[str, object]], Iterator[Wait]]
BY_ARGUMENTS: dict[str, Rule] = {
    "aten::histc": _histc,
    "aten::isin": _isin,
    "aten::multinomial": _multinomial,
}


def _to_copy(
    source: object, kwargs: Mapping[str, object], to: torch.device | None
) -> Iterator[Wait]:
    if (
        to is None
        or kwargs.get("non_blocking")
        or not isinstance(source, torch.Tensor)
        or not source.numel()
    ):
        return  # a copy to the host that does not block allocates pinned memory itself
    if isinstance(source, ShadowTensor) and to.type == "cpu":
        yield Wait(COPY_TO_HOST)
    elif not isinstance(source, ShadowTensor) and to.type == "cuda":
        yield Wait(COPY_TO_DEVICE)


def _copy(args: Sequence[object], kwargs: Mapping[str, object], pinned: set[int]) -> Iterator[Wait]:
    target, source = args[0], args[1]
    if isinstance(target, ShadowTensor) == isinstance(source, ShadowTensor):
        return
    if not isinstance(target, torch.Tensor) or not target.numel():
        return
    if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
        yield Wait(COPY_TO_DEVICE if isinstance(target, ShadowTensor) else COPY_TO_HOST)
    elif isinstance(source, ShadowTensor) and id(target) not in pinned:
        # into pageable memory the driver waits, whatever the argument says
        yield Wait(COPY_TO_HOST, warns=False)


def _indexing(name: str, args: Sequence[object]) -> Iterator[Wait]:
    indexed, indices = args[0], args[1]
    if not isinstance(indexed, ShadowTensor):
        return
    assert isinstance(indices, Sequence)
    tensors = [index for index in indices if isinstance(index, torch.Tensor)]
    values = args[2] if "put" in name and len(args) > 2 else None
    accumulate = bool(args[3]) if len(args) > 3 else False
    if (
        isinstance(values, torch.Tensor)
        and not accumulate
        and _becomes_masked_fill(tensors, values)
    ):
        return
    for index in tensors:
        if index.dtype in _MASKS:
            # A mask on the host is counted there, and copied from pinned memory without waiting
            # (expandTensors).
            if isinstance(index, ShadowTensor):
                yield Wait("mask-index")
        elif not isinstance(index, ShadowTensor):
            yield Wait(COPY_TO_DEVICE)
    if (
        isinstance(values, torch.Tensor)
        and not isinstance(values, ShadowTensor)
        and values.dim() == 0
    ):
        yield Wait(COPY_TO_DEVICE)


def _becomes_masked_fill(indices: Sequence[torch.Tensor], values: torch.Tensor) -> bool:
    """x[mask] = number: one mask and one value on the host (canDispatchToMaskedFill)."""
    return (
        len(indices) == 1
        and indices[0].dtype in _MASKS
        and not isinstance(values, ShadowTensor)
        and values.numel() == 1
    )
