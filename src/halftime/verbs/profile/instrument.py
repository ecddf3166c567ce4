"""Put the recorder around every component of a pipeline, by what diffusers calls them and not by
pipeline class.

Modules get a timed call on the instance, outside of whatever is compiled. Everything else
(scheduler, tokenizers, processors, the pipeline's own methods) gets, for as long as it lasts, a
subclass of its class with timed methods: copies that a pipeline makes of its scheduler then behave
as copies.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from halftime.records.stages import METHOD_PLACES, PIPELINE_METHODS, Place, place_of
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    import torch
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
    """Time the pipeline's parts within the block; afterwards, also after an exception, it is as it
    was."""
    with ExitStack() as undo:
        for part in pipelines_within(pipeline):
            _wrap_pipeline(part, recorder, undo)
        for name, component in components_within(pipeline).items():
            _wrap_component(name, component, recorder, undo)
        yield


def pipelines_within(pipeline: DiffusionPipeline) -> list[DiffusionPipeline]:
    """The pipeline, and those that a combined pipeline holds as attributes."""
    from diffusers import DiffusionPipeline

    return [
        pipeline,
        *(value for value in vars(pipeline).values() if isinstance(value, DiffusionPipeline)),
    ]


def components_within(pipeline: DiffusionPipeline) -> dict[str, object]:
    """Name -> component, each object once, with the processors that pipelines keep beside their
    components.

    Where two pipelines name different objects alike, the later ones are numbered from 2.
    """
    found: dict[int, tuple[str, object]] = {}
    for part in pipelines_within(pipeline):
        processors = {
            name: value for name, value in vars(part).items() if name.endswith("processor")
        }
        for name, component in {**part.components, **processors}.items():
            if component is not None and hasattr(component, "__dict__"):
                found.setdefault(id(component), (name, component))
    named: dict[str, object] = {}
    for name, component in found.values():
        later = next(
            (
                f"{name}_{number}"
                for number in range(2, len(found) + 2)
                if f"{name}_{number}" not in named
            ),
            name,
        )
        named[later if name in named else name] = component
    return named


def _wrap_component(name: str, component: object, recorder: Recorder, undo: ExitStack) -> None:
    from torch import nn

    place = place_of(name) or Place(f"{name} ({UNRECOGNISED})", name)
    if isinstance(component, nn.Module):
        _wrap_module(name, component, place, recorder, undo)
    else:
        _wrap_object(name, component, place, recorder, undo)


def _wrap_module(
    name: str, module: torch.nn.Module, place: Place, recorder: Recorder, undo: ExitStack
) -> None:
    # module.compile() sets _compiled_call_impl, and a wrapper inside it would be compiled too.
    entry = "_compiled_call_impl" if getattr(module, "_compiled_call_impl", None) else "forward"
    _set_on_instance(module, entry, _timed(getattr(module, entry), place, name, recorder), undo)
    for method in MODULE_METHODS:
        function = getattr(module, method, None)
        if function is not None and (inspect.ismethod(function) or method in vars(module)):
            place_here = METHOD_PLACES.get((place.part, method), place)
            _set_on_instance(
                module, method, _timed(function, place_here, f"{name}.{method}", recorder), undo
            )


def _set_on_instance(instance: object, name: str, value: object, undo: ExitStack) -> None:
    # Through __dict__: nn.Module and OptimizedModule give setattr meanings of their own.
    namespace = vars(instance)
    if name in namespace:
        undo.callback(namespace.__setitem__, name, namespace[name])
    else:
        undo.callback(namespace.pop, name, None)
    namespace[name] = value


def _wrap_object(
    name: str, component: object, place: Place, recorder: Recorder, undo: ExitStack
) -> None:
    overrides = {
        method: _timed(
            function,
            METHOD_PLACES.get((place.part, method), place),
            _method_name(name, place, method),
            recorder,
        )
        for method in OBJECT_METHODS
        if (function := _plain_method(component, method))
    }
    swap_class(component, overrides, undo)


def _method_name(name: str, place: Place, method: str) -> str:
    if place.part == "scheduler":
        # one name for 'scheduler', 'prior_scheduler' …: steps are counted by it
        return f"scheduler.{method}"
    return name if method == "__call__" else f"{name}.{method}"


def _wrap_pipeline(pipeline: DiffusionPipeline, recorder: Recorder, undo: ExitStack) -> None:
    overrides = {
        method: _timed(function, Place(stage, ""), method, recorder)
        for method, stage in PIPELINE_METHODS
        if (function := _plain_method(pipeline, method))
    }
    progress_bar = _plain_method(pipeline, "progress_bar")
    if progress_bar:
        overrides["progress_bar"] = _timed_progress_bar(progress_bar, recorder)
    swap_class(pipeline, overrides, undo)


def _plain_method(instance: object, name: str) -> Callable[..., object] | None:
    """The class's own function of that name; None for static methods, properties and what is not
    there."""
    function = inspect.getattr_static(type(instance), name, None)
    return function if isinstance(function, types.FunctionType) else None


def _timed(
    function: Callable[..., T], place: Place, name: str, recorder: Recorder
) -> Callable[..., T]:
    # pipelines look at the signatures of scheduler.step and set_timesteps
    @functools.wraps(function)
    def timed(*args: object, **kwargs: object) -> T:
        with recorder.span(place, name):
            return function(*args, **kwargs)

    return timed


def _timed_progress_bar(
    function: Callable[..., object], recorder: Recorder
) -> Callable[..., object]:
    @functools.wraps(function)
    def progress_bar(*args: object, **kwargs: object) -> object:
        recorder.loop_begins()
        with recorder.span(PROGRESS, "progress_bar"):
            bar = function(*args, **kwargs)
        _wrap_bar(bar, recorder)
        return bar

    return progress_bar


def _wrap_bar(bar: object, recorder: Recorder) -> None:
    overrides = {
        name: _timed(method, PROGRESS, f"progress_bar.{name}", recorder)
        for name in ("update", "close", "set_postfix", "refresh")
        if (method := _plain_method(bar, name))
    }
    undo = ExitStack()
    if "close" in overrides:
        overrides["close"] = _last(overrides["close"], undo)
    swap_class(bar, overrides, undo)


def _last(function: Callable[[object], object], undo: ExitStack) -> Callable[..., object]:
    """A method that unwraps its object when done: tqdm closes a bar again when it is collected,
    long after the loop."""

    def last(self: object) -> object:
        with undo:
            return function(self)

    return last


def swap_class(
    instance: object, overrides: dict[str, Callable[..., object]], undo: ExitStack
) -> None:
    """Give `instance` a subclass of its class with `overrides`, until `undo` is closed."""
    cls = type(instance)
    if not overrides:
        return
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        **overrides,
    }
    try:
        instance.__class__ = types.new_class(
            cls.__name__, (cls,), exec_body=lambda body: body.update(namespace)
        )
    except TypeError:
        return  # a class laid out in C: its time shows as its caller's own
    undo.callback(setattr, instance, "__class__", cls)
