"""A room's package is also its verb: `halftime.audit` is a package, and `halftime.audit(pipeline, workload)` a call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType


class _Verb(ModuleType):
    """A package that can be called."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.__dict__["__verb__"](*args, **kwargs)


def callable_package(name: str, function: Callable[..., object]) -> None:
    """Make the package `name` callable as `function`; called once, at the end of a room's `__init__`."""
    package = sys.modules[name]
    package.__dict__["__verb__"] = function
    package.__class__ = _Verb
