"""How to change an object for a while: one attribute set and restored, one class extended.

Both are undone exactly, also after an exception: the very objects that were there come back. Nested
changes of one object are undone in the reverse order, as `with` statements and ExitStack do.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from halftime.pipeline.components import pipelines_of
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_ABSENT = object()
T = TypeVar("T")


@contextmanager
def patched(holder: object, name: str, value: object) -> Iterator[None]:
    """An attribute of this one object (an instance, a module or a class) set within the block.

    It goes straight into the object's `__dict__`, because nn.Module gives `setattr` a meaning of
    its own. Afterwards the object has exactly the attribute that it had itself, or none.
    """
    before = vars(holder).get(name, _ABSENT)
    _put(holder, name, value)
    try:
        yield
    finally:
        _put(holder, name, before)


def _put(holder: object, name: str, value: object) -> None:
    attributes = vars(holder)
    if not isinstance(attributes, MutableMapping):  # of a class: a read-only view
        delattr(holder, name) if value is _ABSENT else setattr(holder, name, value)
    elif value is _ABSENT:
        attributes.pop(name, None)
    else:
        attributes[name] = value


@contextmanager
def subclassed(instance: object, members: Mapping[str, object]) -> Iterator[None]:
    """The instance as one of a subclass of its class with these members, within the block.

    Python looks special methods and properties up on the class, and copies of an object share its
    class but not its patched attributes. The subclass has the name, module and docstring of the
    class. Raises TypeError for an object laid out in C, whose class cannot be changed.
    """
    original = type(instance)
    identity = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
    }
    instance.__class__ = types.new_class(
        original.__name__, (original,), exec_body=lambda body: body.update({**identity, **members})
    )
    try:
        yield
    finally:
        instance.__class__ = original


class WrappedMethod:
    """A method of one object as `around(owner, method, *args, **kwargs)`.

    A deep copy of the object has its own: pipelines copy their scheduler, and a closure over the
    original would step that one.
    """

    def __init__(self, owner: object, method: Callable[..., T], around: Callable[..., T]) -> None:
        functools.update_wrapper(self, method)  # pipelines inspect the signature
        self.owner, self.method, self.around = owner, method, around

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.around(self.owner, self.method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, object]) -> WrappedMethod:
        owner = memo.get(id(self.owner), self.owner)
        return WrappedMethod(owner, copy.deepcopy(self.method, memo), self.around)


@contextmanager
def method_wrapped(owner: object, name: str, around: Callable[..., object]) -> Iterator[None]:
    """Within the block a method of this object runs as `around(owner, method, *args, **kwargs)`;
    on its deep copies, with the copy as the owner."""
    with patched(owner, name, WrappedMethod(owner, getattr(owner, name), around)):
        yield


@contextmanager
def intercepted(
    pipeline: DiffusionPipeline, before: Callable[[dict[str, object]], dict[str, object]]
) -> Iterator[None]:
    """Every call of the pipeline passes its keyword arguments through `before` first."""
    original = type(pipeline).__call__

    @functools.wraps(original)
    def call(self: DiffusionPipeline, *args: object, **kwargs: object) -> object:
        return original(self, *args, **before(kwargs))

    with subclassed(pipeline, {"__call__": call}):
        yield


@contextmanager
def surrounded(
    pipeline: DiffusionPipeline, around: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Every call of the pipeline runs inside `around()`."""
    original = type(pipeline).__call__

    @functools.wraps(original)
    def call(self: DiffusionPipeline, *args: object, **kwargs: object) -> object:
        with around():
            return original(self, *args, **kwargs)

    with subclassed(pipeline, {"__call__": call}):
        yield


@contextmanager
def logging_at_least(library: ModuleType, level: int) -> Iterator[None]:
    """Within it a library's own logging (`diffusers.utils.logging`) says what is as grave."""
    verbosity = library.get_verbosity()
    library.set_verbosity(level)
    try:
        yield
    finally:
        library.set_verbosity(verbosity)


@contextmanager
def progress_bars(pipeline: DiffusionPipeline, **config: object) -> Iterator[None]:
    """The pipeline's progress bars, and those of pipelines within it, with these options of tqdm
    in addition to their own."""
    name = hugging_face.PROGRESS_BAR_CONFIG
    with ExitStack() as undo:
        for part in pipelines_of(pipeline):
            own = getattr(part, name, None)
            merged = {**(own if isinstance(own, dict) else {}), **config}
            undo.enter_context(patched(part, name, merged))
        yield
