"""Methods of single objects, timed through their class, which stays the class that it is.

Python looks special methods up on the class, and a pipeline may compare `type(self.scheduler)` with
a class that it knows: so the class gets the wrapper, and a mark in the object's own attributes says
whom it is for. A copy of the object carries the mark along; other objects of the class have none,
and run as if nothing were there.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from halftime.pipeline.change import patched

MARK = "_halftime_timed"  # method -> what runs around it, the innermost first
Method = Callable[..., object]
Around = Callable[..., object]  # called as around(method, self, *args, **kwargs)

_lock = threading.RLock()
# (class, method) -> the number of blocks that need it there, and what undoes it
_installed: dict[tuple[type, str], tuple[int, ExitStack]] = {}


def plain_method(instance: object, name: str) -> Method | None:
    """The class's function of that name; None for static methods, properties and unknown names."""
    function = inspect.getattr_static(type(instance), name, None)
    return function if isinstance(function, types.FunctionType) else None


def is_static(instance: object, name: str) -> bool:
    """Whether the class has a static method of that name."""
    return isinstance(inspect.getattr_static(type(instance), name, None), staticmethod)


@contextmanager
def methods_timed(instance: object, arounds: Mapping[str, Around]) -> Iterator[None]:
    """Within the block, each of these methods of the object, and of its copies, runs inside its
    `around`. A class laid out in C is left alone: its time shows as its caller's own."""
    before = vars(instance).get(MARK, {})
    mark = {**before, **{name: (*before.get(name, ()), run) for name, run in arounds.items()}}
    with ExitStack() as undo:
        for name in arounds:
            with suppress(TypeError):
                undo.enter_context(_class_wrapped(type(instance), name))
        undo.enter_context(patched(instance, MARK, mark))
        yield


@contextmanager
def _class_wrapped(kind: type, name: str) -> Iterator[None]:
    """The wrapper on the class, for as long as any block needs it: they need not nest."""
    with _lock:
        count, undo = _installed.get((kind, name), (0, ExitStack()))
        if not count:
            undo.enter_context(patched(kind, name, _asking(getattr(kind, name), name)))
        _installed[kind, name] = (count + 1, undo)
    try:
        yield
    finally:
        with _lock:
            count, undo = _installed.pop((kind, name))
            if count > 1:
                _installed[kind, name] = (count - 1, undo)
            else:
                undo.close()


def _asking(method: Method, name: str) -> Method:
    """The method, run inside of what the object's mark names for it."""

    @functools.wraps(method)  # pipelines look at the signatures of scheduler.step and set_timesteps
    def asking(self: object, *args: object, **kwargs: object) -> object:
        run = method
        for around in vars(self).get(MARK, {}).get(name, ()):
            run = functools.partial(around, run)
        return run(self, *args, **kwargs)

    return asking
