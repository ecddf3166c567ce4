"""Bring back to the CPU what a call left on the shadow device: schedules, caches and tables."""

from __future__ import annotations

from collections.abc import MutableMapping
from types import FunctionType, MethodType, ModuleType

from halftime.verbs.audit.tensor import ShadowTensor

_NOT_WALKED = (str, bytes, int, float, type, FunctionType, MethodType, ModuleType)


def bring_home(*roots: object) -> None:
    """Replace each shadow tensor in `roots` and all that they hold by its CPU tensor."""
    visited: set[int] = set()
    waiting = list(roots)
    while waiting:
        holder = waiting.pop()
        if id(holder) in visited or isinstance(holder, _NOT_WALKED):
            continue
        visited.add(id(holder))
        waiting.extend(
            _in_container(holder)
            if isinstance(holder, list | tuple | MutableMapping)
            else _in_object(holder)
        )


def _in_container(holder: object) -> list[object]:
    if isinstance(holder, tuple):
        return list(holder)
    items = dict(enumerate(holder)) if isinstance(holder, list) else holder
    assert isinstance(items, dict | MutableMapping)
    for key, value in list(items.items()):
        home = _home(value)
        if home is not value:
            holder[key] = home  # type: ignore[index]
    return list(holder.values()) if isinstance(holder, MutableMapping) else list(holder)  # type: ignore[call-overload]


def _in_object(holder: object) -> list[object]:
    attributes = getattr(holder, "__dict__", None)
    return (
        [attributes]
        if isinstance(attributes, dict) and not isinstance(holder, ShadowTensor)
        else []
    )


def _home(value: object) -> object:
    """The value without shadow tensors; a tuple that holds one is made anew."""
    if isinstance(value, ShadowTensor):
        return value.on_host
    if type(value) is tuple and any(isinstance(part, ShadowTensor) for part in value):
        return tuple(_home(part) for part in value)
    return value
