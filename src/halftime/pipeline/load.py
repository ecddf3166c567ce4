"""Load any pipeline: the bundled one, a folder, a file, a hub id, or what a function returns."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from halftime import bundled
from halftime.base.errors import BadInput, BadWorkload, UnknownModel, first_line
from halftime.pipeline.device import checked_device, default_device
from halftime.pipeline.pictures import takes_pictures
from halftime.pipeline.pretrained import (
    CHECKPOINTS,
    load_checkpoint,
    load_folder,
    load_hub,
    load_loras,
)
from halftime.pipeline.signature import CATCH_ALL
from halftime.pipeline.solver import of_another_family, solver_like
from halftime.records import Workload
from halftime.records.session import BUNDLED

# What says how files are loaded, and means nothing where there are none.
_OF_FILES = ("variant", "revision", "config", "custom_pipeline")


class LoadedPipeline(NamedTuple):
    """A pipeline, what to call it, and what its reader must know."""

    pipeline: DiffusionPipeline
    name: str
    notes: tuple[str, ...]


def load_pipeline(model: str | None = None, workload: Workload | None = None) -> DiffusionPipeline:
    """A diffusers pipeline, ready for `workload` (device, dtype, scheduler, LoRA).

    `model` is a diffusers folder, a checkpoint in one file, a hub id that is cached or can be
    fetched, `module:function` returning a pipeline, or None for the bundled model. Raises
    UnknownModel, BadWorkload or UnknownDevice.
    """
    return load(model, workload or Workload()).pipeline


def load(model: str | None, workload: Workload, *, on_host: bool = False) -> LoadedPipeline:
    """As `load_pipeline`, with the model's name and notes.

    A pipeline goes to the workload's device, or to the best one here; what a function returned is
    left where it is unless a device is named. With `on_host` nothing is moved: what the device may
    be too small for is brought there in parts.
    """
    device = None if workload.device is None else checked_device(workload.device)
    kind = kind_of(model)
    loaded = _load(model, kind, workload)
    pipeline, conversion = _for_pictures(loaded.pipeline, workload)
    notes = (*conversion, *load_loras(pipeline, workload.lora))
    if workload.scheduler:
        _replace_scheduler(pipeline, workload.scheduler)
    target = device if kind == "function" else device or default_device()
    target = None if on_host else target
    _move(pipeline, target, workload.dtype if kind == "function" else None)
    return LoadedPipeline(pipeline, loaded.name, (*loaded.notes, *notes))


def _for_pictures(
    pipeline: DiffusionPipeline, workload: Workload
) -> tuple[DiffusionPipeline, tuple[str, ...]]:
    """A text-to-image pipeline whose workload has a picture as diffusers' image-to-image or
    inpainting pipeline of its kind, over the same components, and a note; else as it is."""
    field = "mask" if workload.mask else "image"
    has_picture = workload.mask or (workload.image and not workload.control_image)
    kind = diffusers.AutoPipelineForInpainting if workload.mask else None
    kind = kind or diffusers.AutoPipelineForImage2Image
    if not has_picture or takes_pictures(pipeline, field):
        return pipeline, ()
    try:
        other_kind: DiffusionPipeline = kind.from_pipe(pipeline)
    except (ValueError, TypeError, AttributeError):  # diffusers has none of that kind
        return pipeline, ()
    return other_kind, (
        f"drawn by {type(other_kind).__name__}, over the components of {type(pipeline).__name__}",
    )


def _move(pipeline: DiffusionPipeline, device: torch.device | None, dtype: str | None) -> None:
    """To the device and dtype, those that are named."""
    goals = [goal for goal in (device, dtype and getattr(torch, dtype)) if goal is not None]
    if not goals:
        return
    if not hasattr(pipeline, "to"):
        raise BadInput(
            f"{type(pipeline).__name__} has no to(), so it stays on its device and in its dtype: "
            "leave --device and --dtype out."
        )
    pipeline.to(*goals)


def load_or_take(pipeline: object, workload: Workload, *, on_host: bool = False) -> LoadedPipeline:
    """What a verb's function was called with: a name to load, or a pipeline, which stays as it is.

    Raises HalftimeError; UnknownModel for an object that is no pipeline.
    """
    if pipeline is None or isinstance(pipeline, str | os.PathLike):
        name = None if pipeline is None else os.fspath(pipeline)
        return load(name, workload, on_host=on_host)
    return LoadedPipeline(checked_pipeline(pipeline), type(pipeline).__name__, ())


def checked_pipeline(value: object, source: str = "") -> DiffusionPipeline:
    """The object, where it can be called and has components. Raises UnknownModel."""
    if isinstance(value, type):
        words = f"the class {value.__name__}, and no instance of it"
    elif callable(value) and isinstance(getattr(value, "components", None), dict):
        return value
    else:
        words = f"{type(value).__name__}"
        if isinstance(value, torch.nn.Module):
            words += ", a part of a pipeline at most"
    verb = f"{source!r} returned" if source else "this is"
    raise UnknownModel(
        f"{verb} {words}; a diffusers pipeline is needed: an object that can be called and has "
        "`components`."
    )


def kind_of(model: str | None) -> str:
    """'bundled', 'folder', 'file', 'function' or 'hub'. Raises UnknownModel."""
    if model is None or model == BUNDLED:
        return "bundled"
    if Path(model).is_dir():
        return "folder"
    if Path(model).is_file() or Path(model).suffix.lower() in CHECKPOINTS:
        return "file"
    if ":" in model:
        return "function"
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        return "hub"
    raise UnknownModel(
        f"{model!r} is not a model: there is no such folder, and it is neither a file of weights "
        "(.safetensors), nor a hub id (owner/name), nor module:function. Leave it out for the "
        "bundled model."
    )


def _load(model: str | None, kind: str, workload: Workload) -> LoadedPipeline:
    _check_options(kind, workload)
    if model is None or kind == "bundled":
        return _load_bundled(workload.dtype)
    path = Path(model)
    loaders: dict[str, Callable[[], DiffusionPipeline]] = {
        "folder": lambda: load_folder(path, workload),
        "file": lambda: load_checkpoint(path, workload),
        "function": lambda: _load_function(model),
        "hub": lambda: load_hub(model, workload),
    }
    return LoadedPipeline(loaders[kind](), model, ())


def _check_options(kind: str, workload: Workload) -> None:
    """Raises BadWorkload for an option that would be passed over in silence."""
    means_something = {
        "folder": ("variant", "custom_pipeline"),
        "hub": ("variant", "revision", "custom_pipeline"),
        "file": ("config",),
    }.get(kind, ())
    for name in _OF_FILES:
        if getattr(workload, name) is not None and name not in means_something:
            option = f"--{name.replace('_', '-')}"
            raise BadWorkload(f"{option} says nothing about {_KINDS[kind]}: leave it out.")


_KINDS = {
    "bundled": "the bundled model",
    "folder": "a folder",
    "file": "a checkpoint in one file",
    "function": "what a function returns",
    "hub": "a hub id",
}


def _load_bundled(dtype: str | None) -> LoadedPipeline:
    notes = (
        ()
        if bundled.trained()
        else ("the bundled model has seeded random weights: timings are real, pictures are noise",)
    )
    return LoadedPipeline(
        bundled.load(None if dtype is None else getattr(torch, dtype)), f"{BUNDLED} emoji-xl", notes
    )


def _load_function(spec: str) -> DiffusionPipeline:
    module_name, _, function_name = spec.partition(":")
    with _importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UnknownModel(
                f"{spec!r}: cannot import {module_name!r} ({first_line(error)})."
            ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, vars(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownModel(f"{spec!r}: {module_name} has no function {function_name!r}.{hint}")
    _check_no_arguments(spec, function)
    with _importable_from_here():
        pipeline = function()
    return checked_pipeline(pipeline, spec)


def _check_no_arguments(spec: str, function: Callable[..., object]) -> None:
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in CATCH_ALL
    ]
    if needed:
        raise UnknownModel(
            f"{spec!r} needs {', '.join(needed)}, and is called without arguments. "
            "Name a function that returns the pipeline by itself."
        )


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    """`module:function` means a module in the current folder too, as with `python -m`; a console
    script lacks that."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _replace_scheduler(pipeline: DiffusionPipeline, name: str) -> None:
    if getattr(pipeline, "scheduler", None) is None:
        raise BadWorkload(
            f"{type(pipeline).__name__} has no scheduler that could be another: leave --scheduler "
            "out."
        )
    scheduler = scheduler_named(name, pipeline)
    if hasattr(pipeline, "update_components"):  # a modular pipeline's
        pipeline.update_components(scheduler=scheduler)
    else:
        pipeline.scheduler = scheduler


def scheduler_named(name: str, pipeline: DiffusionPipeline) -> object:
    """A scheduler by class name, with the configuration of the pipeline's own. Raises
    BadWorkload."""
    kind = getattr(diffusers, name, None) or getattr(diffusers, f"{name}Scheduler", None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        names = sorted(
            word
            for word in dir(diffusers)
            if word.endswith("Scheduler") and not word.startswith("Flax")
        )
        raise BadWorkload(
            f"scheduler {name!r} is not in diffusers. Some that are: {', '.join(names[:40])}."
        )
    reason = of_another_family(pipeline.scheduler, kind)
    if reason:
        raise BadWorkload(
            f"scheduler {name!r} does not fit {type(pipeline).__name__}: {reason}. Its own is "
            f"{type(pipeline.scheduler).__name__}."
        )
    return solver_like(pipeline.scheduler, kind)
