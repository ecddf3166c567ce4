"""What of a call is the user's own doing: callbacks between steps, and what torch.compile does for
their call, with their line."""

from __future__ import annotations

import functools
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from halftime.base import source
from halftime.records.stages import Place
from halftime.upstream import pytorch
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.timed_methods import Around, Method, methods_timed

CALLBACK = Place("denoise", "callback")
CALLBACKS = ("callback_on_step_end", "callback")  # diffusers' names, the second from before 0.23
COMPILE = "torch.compile"  # of its spans' names, before the user's line

_OWN = str(Path(__file__).parents[2])
_STANDARD = sysconfig.get_path("stdlib")


@contextmanager
def callbacks_timed(
    arguments: Mapping[str, object], recorder: Recorder
) -> Iterator[dict[str, object]]:
    """The arguments of a call within the block, each callback in a span of its own.

    An object of diffusers' callback classes stays the object that it is, since pipelines ask for
    its class: it is timed through that.
    """
    timed = dict(arguments)
    with ExitStack() as undo:
        for name in CALLBACKS:
            callback = arguments.get(name)
            if hasattr(callback, "tensor_inputs"):
                undo.enter_context(methods_timed(callback, {"__call__": _around(recorder)}))
            elif callable(callback):
                timed[name] = _timed(callback, recorder)
        yield timed


def _around(recorder: Recorder) -> Around:
    def around(method: Method, *args: object, **kwargs: object) -> object:
        with recorder.span(CALLBACK, "callback"):
            return method(*args, **kwargs)

    return around


def _timed(callback: Callable[..., object], recorder: Recorder) -> Callable[..., object]:
    @functools.wraps(callback)
    def timed(*args: object, **kwargs: object) -> object:
        with recorder.span(CALLBACK, "callback"):
            return callback(*args, **kwargs)

    return timed


@contextmanager
def compilations_timed(recorder: Recorder) -> Iterator[None]:
    """What this thread compiles within the block, in spans named by the user's line."""
    thread = threading.get_ident()
    spans: list[AbstractContextManager[None]] = []

    def begins() -> None:
        if threading.get_ident() == thread:
            line = users_line()
            span = recorder.span(recorder.compiles(), f"{COMPILE} {line}" if line else COMPILE)
            span.__enter__()
            spans.append(span)

    def ends() -> None:
        if threading.get_ident() == thread and spans:
            spans.pop().__exit__(None, None, None)

    with pytorch.compilations_watched(begins, ends):
        yield


def users_line() -> str:
    """FILE:LINE of the innermost frame that is neither a package's nor ours; '' where there is
    none."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<", _OWN, _STANDARD)) and not source.is_installed(file):
            return f"{source.short(file)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
