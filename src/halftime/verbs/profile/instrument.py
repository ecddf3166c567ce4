"""Put the recorder around every component of a pipeline, by what diffusers calls it.

Modules get a timed call on the instance, outside of whatever is compiled. Everything else
(scheduler, tokenizers, processors, the pipeline's own methods) is timed through its class, for as
long as it lasts: copies that a pipeline makes of its scheduler then behave as copies, and its class
is the one that it was.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from halftime.base.ledger import TURN
from halftime.pipeline.change import patched, subclassed
from halftime.pipeline.components import components_of, pipelines_of
from halftime.records.stages import (
    METHOD_PLACES,
    PIPELINE_METHODS,
    Place,
    place_of,
    stage_of_block,
)
from halftime.upstream import hugging_face, pytorch
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.timed_methods import (
    Around,
    Method,
    is_static,
    methods_timed,
    plain_method,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

T = TypeVar("T")

# Methods through which pipelines use components, beside calling them.
MODULE_METHODS = (
    "encode",
    "decode",
    "generate",
    "get_text_features",
    "get_image_features",
    "tiled_decode",
)
OBJECT_METHODS = (
    "__call__",
    "step",
    "scale_model_input",
    "set_timesteps",
    "set_sigmas",
    "add_noise",
    "scale_noise",
    "preprocess",
    "postprocess",
    "preprocess_video",
    "postprocess_video",
    "pad",
    "batch_decode",
    "apply_chat_template",
    "invert",
)
PROGRESS = Place("denoise", "progress_bar")
UNRECOGNISED = "stage not recognised"


@contextmanager
def instrumented(pipeline: DiffusionPipeline, recorder: Recorder) -> Iterator[None]:
    """Time the pipeline's parts within the block; afterwards it is as it was."""
    with ExitStack() as undo:
        for part in pipelines_of(pipeline):
            _wrap_pipeline(part, recorder, undo)
        for name, component in components_of(pipeline).items():
            _wrap_component(name, component, recorder, undo)
        yield


def _wrap_component(name: str, component: object, recorder: Recorder, undo: ExitStack) -> None:
    home = place_of(name) or Place(f"{name} ({UNRECOGNISED})", name)
    if isinstance(component, nn.Module):
        _wrap_module(name, component, home, recorder, undo)
    else:
        _wrap_object(name, component, home, recorder, undo)


def _wrap_module(
    name: str, module: nn.Module, home: Place, recorder: Recorder, undo: ExitStack
) -> None:
    entry = pytorch.call_entry(module)
    timed = _timed(getattr(module, entry), home, name, recorder)
    undo.enter_context(patched(module, entry, timed))
    for method in MODULE_METHODS:
        function = getattr(module, method, None)
        if function is not None and (inspect.ismethod(function) or method in vars(module)):
            method_home = METHOD_PLACES.get((home.part, method), home)
            timed = _timed(function, method_home, f"{name}.{method}", recorder)
            undo.enter_context(patched(module, method, timed))


def _wrap_object(
    name: str, component: object, home: Place, recorder: Recorder, undo: ExitStack
) -> None:
    arounds = {
        method: _around(
            METHOD_PLACES.get((home.part, method), home),
            _method_name(name, home, method),
            recorder,
        )
        for method in OBJECT_METHODS
        if plain_method(component, method)
    }
    undo.enter_context(methods_timed(component, arounds))


def _method_name(name: str, home: Place, method: str) -> str:
    if home.part == "scheduler":
        # one name for 'scheduler', 'prior_scheduler' …: steps are counted by it
        return f"scheduler.{method}"
    return name if method == "__call__" else f"{name}.{method}"


def _wrap_pipeline(pipeline: DiffusionPipeline, recorder: Recorder, undo: ExitStack) -> None:
    arounds = {
        method: _around(Place(stage, ""), method, recorder)
        for method, stage in PIPELINE_METHODS
        if plain_method(pipeline, method)
    }
    for method, stage in PIPELINE_METHODS:
        if is_static(pipeline, method):
            timed = _timed(getattr(pipeline, method), Place(stage, ""), method, recorder)
            undo.enter_context(patched(pipeline, method, timed))
    if plain_method(pipeline, "progress_bar"):
        arounds["progress_bar"] = _around_progress_bar(recorder)
    undo.enter_context(methods_timed(pipeline, arounds))
    _wrap_blocks(pipeline, recorder, undo)


def _wrap_blocks(pipeline: DiffusionPipeline, recorder: Recorder, undo: ExitStack) -> None:
    """A modular pipeline's: its loops make the progress bars, and its other blocks have the names
    of stages."""
    for name, block in hugging_face.leaf_blocks(pipeline):
        if hugging_face.is_loop(block):
            arounds = {"progress_bar": _around_progress_bar(recorder)}
        else:
            stage = stage_of_block(name)
            arounds = {"__call__": _around(Place(stage, ""), name, recorder)} if stage else {}
        undo.enter_context(methods_timed(block, arounds))


def _around(home: Place, name: str, recorder: Recorder) -> Around:
    def around(method: Method, *args: object, **kwargs: object) -> object:
        with recorder.span(home, name):
            return method(*args, **kwargs)

    return around


def _around_progress_bar(recorder: Recorder) -> Around:
    def around(method: Method, *args: object, **kwargs: object) -> object:
        recorder.loop_begins()
        with recorder.span(PROGRESS, "progress_bar"):
            bar = method(*args, **kwargs)
        _wrap_bar(bar, recorder)
        return bar

    return around


def _timed(
    function: Callable[..., T], home: Place, name: str, recorder: Recorder
) -> Callable[..., T]:
    # pipelines look at the signatures of scheduler.step and set_timesteps
    @functools.wraps(function)
    def timed(*args: object, **kwargs: object) -> T:
        with recorder.span(home, name):
            return function(*args, **kwargs)

    return timed


def _wrap_bar(bar: object, recorder: Recorder) -> None:
    overrides = {
        name: _timed(method, PROGRESS, f"progress_bar.{name}", recorder)
        for name in ("update", "close", "set_postfix", "refresh")
        if (method := plain_method(bar, name))
    }
    iterate = plain_method(bar, "__iter__")
    if iterate:
        overrides["__iter__"] = _marking_steps(iterate, recorder)
    undo = ExitStack()
    if "close" in overrides:
        overrides["close"] = _last(overrides["close"], undo)
    # A bar laid out in C cannot be extended: its time shows as its caller's own.
    with suppress(TypeError):
        undo.enter_context(subclassed(bar, overrides))


def _marking_steps(iterate: Method, recorder: Recorder) -> Method:
    """A loop over the bar itself begins a step with each of its turns."""

    @functools.wraps(iterate)
    def marking(self: object) -> Iterator[object]:
        for item in iterate(self):  # type: ignore[attr-defined]
            with recorder.span(PROGRESS, TURN):
                pass
            yield item

    return marking


def _last(function: Callable[[object], object], undo: ExitStack) -> Callable[..., object]:
    """A method that unwraps its object when done: tqdm closes a bar again when it is collected,
    long after the loop."""

    def last(self: object) -> object:
        with undo:
            return function(self)

    return last
