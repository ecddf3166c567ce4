"""Load any pipeline: the bundled one, a folder, a hub id, or what a function returns."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import diffusers
import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import DiffusionPipeline, SchedulerMixin

from halftime import bundled
from halftime.base.errors import BadWorkload, UnknownModel
from halftime.pipeline.arguments import CATCH_ALL
from halftime.pipeline.device import checked_device
from halftime.records import Workload


class LoadedPipeline(NamedTuple):
    """A pipeline, what to call it, and what its reader must know."""

    pipeline: DiffusionPipeline
    name: str
    notes: tuple[str, ...]


def load_pipeline(model: str | None = None, workload: Workload | None = None) -> DiffusionPipeline:
    """A diffusers pipeline, ready for `workload` (device, dtype, scheduler).

    `model` is a diffusers folder, a hub id that is cached or can be fetched, `module:function`
    returning a pipeline, or None for the bundled model. Raises UnknownModel, BadWorkload or
    UnknownDevice.
    """
    return load(model, workload or Workload()).pipeline


def load(model: str | None, workload: Workload) -> LoadedPipeline:
    """As `load_pipeline`, with the model's name and notes."""
    device = checked_device(workload.device)
    loaded = _load(model)
    pipeline = loaded.pipeline
    if workload.scheduler:
        pipeline.scheduler = scheduler_named(workload.scheduler, pipeline)
    pipeline.to(device, *([getattr(torch, workload.dtype)] if workload.dtype else []))
    return loaded


def _load(model: str | None) -> LoadedPipeline:
    if model is None or model == bundled.BUNDLED:
        return _load_bundled()
    if Path(model).exists():
        return LoadedPipeline(_load_folder(Path(model)), str(model), ())
    if ":" in model:
        return LoadedPipeline(_load_function(model), model, ())
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        return LoadedPipeline(_load_hub(model), model, ())
    raise UnknownModel(
        f"{model!r} is not a model: there is no such folder, and it is neither a hub id "
        "(owner/name) nor module:function. Leave it out for the bundled model."
    )


def _load_bundled() -> LoadedPipeline:
    notes = (
        ()
        if bundled.trained()
        else ("the bundled model has seeded random weights: timings are real, pictures are noise",)
    )
    return LoadedPipeline(bundled.load(), "bundled emoji-xl", notes)


def _load_folder(folder: Path) -> DiffusionPipeline:
    if not (folder / "model_index.json").is_file():
        raise UnknownModel(
            f"{folder} is not a diffusers pipeline: it has no model_index.json. Name a folder that "
            "pipeline.save_pretrained() wrote."
        )
    try:
        with _bars_on_a_terminal_alone():
            return DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if "has not been imported" in str(error):
            sentence = _first_line(error).partition(". ")[0].rstrip(".")
            raise UnknownModel(
                f"{folder} holds a component of your own: {sentence}. Name a "
                "function instead, as module:function, that imports it and returns the pipeline."
            ) from error
        raise UnknownModel(
            f"{folder} cannot be loaded as a diffusers pipeline: {_first_line(error)}"
        ) from error


def _load_hub(name: str) -> DiffusionPipeline:
    try:
        with _bars_on_a_terminal_alone():
            return DiffusionPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnknownModel(
            f"{name!r} is not a folder here, and the hub did not give it: {_first_line(error)} "
            "Name a folder, a cached hub id or module:function."
        ) from error


@contextlib.contextmanager
def _bars_on_a_terminal_alone() -> Iterator[None]:
    """The libraries draw their loading bars into logs and files, too."""
    modules = (diffusers.utils.logging, transformers.utils.logging)
    showing = [
        module for module in modules if module.is_progress_bar_enabled() and not sys.stderr.isatty()
    ]
    for module in showing:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in showing:
            module.enable_progress_bar()


def _load_function(spec: str) -> DiffusionPipeline:
    module_name, _, function_name = spec.partition(":")
    with _importable_from_here():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UnknownModel(
                f"{spec!r}: cannot import {module_name!r} ({_first_line(error)})."
            ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, vars(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownModel(f"{spec!r}: {module_name} has no function {function_name!r}.{hint}")
    _check_no_arguments(spec, function)
    with _importable_from_here():
        pipeline = function()
    if not callable(pipeline) or not hasattr(pipeline, "components"):
        raise UnknownModel(
            f"{spec!r} returned {type(pipeline).__name__}; a diffusers pipeline is needed."
        )
    return pipeline


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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
    scheduler: object = kind.from_config(pipeline.scheduler.config)  # type: ignore[attr-defined]
    return scheduler
