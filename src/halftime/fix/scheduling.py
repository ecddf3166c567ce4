"""schedule-table, set-begin-index, solver-steps, progress-bar-off: the loop's small costs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import diffusers

from halftime.base.errors import DoesNotApply
from halftime.base.source import short
from halftime.fix.base import FixCode, Settings, first_reason, number, text
from halftime.fix.schedule_table import build
from halftime.fix.table_scheduler import index_in_schedule, tabled
from halftime.pipeline.arguments import call_parameters
from halftime.pipeline.change import intercepted, method_wrapped, patched, progress_bars
from halftime.pipeline.components import pipelines_of
from halftime.pipeline.solver import of_another_family, solver_like
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin


@contextmanager
def scheduler_in_place(pipeline: DiffusionPipeline, scheduler: object) -> Iterator[None]:
    """Another scheduler within the block, also in the pipelines that this one holds."""
    original = pipeline.scheduler
    with ExitStack() as stack:
        for holder in pipelines_of(pipeline):
            if getattr(holder, "scheduler", None) is original:
                stack.enter_context(patched(holder, "scheduler", scheduler))
        yield


def _needs_scheduler(pipeline: DiffusionPipeline) -> str | None:
    scheduler = getattr(pipeline, "scheduler", None)
    return (
        None if hasattr(scheduler, "step") else "the pipeline has no scheduler with a step method"
    )


# ---- schedule-table


def _table_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    return (
        _needs_scheduler(pipeline) or cannot_be_replaced(pipeline) or not_linear(pipeline.scheduler)
    )


def cannot_be_replaced(pipeline: DiffusionPipeline) -> str | None:
    """Why a table cannot stand for the pipeline's scheduler, however linear it is, or None."""
    step = own_step(pipeline.scheduler)
    if step:
        return (
            f"{step} is not diffusers' own, and what else it does (logs, checks) would be left "
            "out. Use a scheduler of diffusers to have a table"
        )
    if hugging_face.compares_scheduler_class(pipeline):
        return "its call compares the class of its scheduler, which a table's is not"
    return None


def not_linear(scheduler: SchedulerMixin, steps: int = 8) -> str | None:
    """The reason why a scheduler has no table, tried on a short schedule; None where it has one."""
    trial = type(scheduler).from_config(scheduler.config)
    try:
        trial.set_timesteps(steps, **_shift(trial))
        build(trial)
    except DoesNotApply as error:
        return str(error)
    except Exception as error:  # a custom scheduler may do anything
        return (
            f"{type(scheduler).__name__}.set_timesteps fails here: {type(error).__name__}: {error}"
        )
    return None


def _shift(scheduler: SchedulerMixin) -> dict[str, float]:
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    return (
        {"mu": 1.0}
        if dynamic and "mu" in inspect.signature(scheduler.set_timesteps).parameters
        else {}
    )


def own_step(scheduler: SchedulerMixin) -> str:
    """'Class.step (file:line)' of a step that is not diffusers' own; '' where it is."""
    home = next(base for base in type(scheduler).__mro__ if "step" in vars(base))
    if home.__module__.startswith("diffusers."):
        return ""
    code = inspect.unwrap(vars(home)["step"]).__code__
    return f"{home.__qualname__}.step ({short(code.co_filename)}:{code.co_firstlineno})"


@contextmanager
def _table_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with scheduler_in_place(pipeline, tabled(pipeline.scheduler)):
        yield


# ---- set-begin-index


def _begin_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    reason = _needs_scheduler(pipeline)
    if reason:
        return reason
    if not hasattr(pipeline.scheduler, "set_begin_index"):
        return "its scheduler does not look for its place in the schedule"
    already = hugging_face.sets_begin_index(pipeline)
    if already is None:
        return "its call is not Python code, so whether it sets it already cannot be seen"
    return "the pipeline sets it already" if already else None


@contextmanager
def _begin_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    """The index comes from the timestep's address in the schedule, which the host knows, not from
    its value on the device."""
    with ExitStack() as stack:
        stack.enter_context(method_wrapped(pipeline.scheduler, "step", _stepped))
        if hasattr(pipeline.scheduler, "scale_model_input"):
            stack.enter_context(method_wrapped(pipeline.scheduler, "scale_model_input", _scaled))
        yield


def _stepped(
    scheduler: SchedulerMixin,
    step: Callable[..., object],
    model_output: object,
    timestep: object,
    *args: object,
    **kwargs: object,
) -> object:
    _begin_at(scheduler, timestep)
    return step(model_output, timestep, *args, **kwargs)


def _scaled(
    scheduler: SchedulerMixin,
    scale: Callable[..., object],
    sample: object,
    timestep: object = None,
    *args: object,
    **kwargs: object,
) -> object:
    _begin_at(scheduler, timestep)
    return scale(sample, timestep, *args, **kwargs)


def _begin_at(scheduler: SchedulerMixin, timestep: object) -> None:
    if scheduler.begin_index is None and scheduler.step_index is None:
        index = index_in_schedule(scheduler.timesteps, timestep)
        if index is not None:
            scheduler.set_begin_index(index)


# ---- solver-steps

SOLVERS: dict[str, dict[str, object]] = {
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True, "final_sigmas_type": "zero"},
    "UniPCMultistepScheduler": {"final_sigmas_type": "zero"},
    "EulerDiscreteScheduler": {"final_sigmas_type": "zero"},
    "DEISMultistepScheduler": {},
    "HeunDiscreteScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {},
}


def _solver_applies(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    names = call_parameters(pipeline).names
    name = text(settings, "scheduler")
    return first_reason(
        _needs_scheduler(pipeline),
        None if "num_inference_steps" in names else "its call takes no num_inference_steps",
        None if number(settings, "steps") >= 1 else "steps must be 1 or more",
        _other_family(pipeline.scheduler, name) if name else None,
    )


def _other_family(scheduler: SchedulerMixin, name: str) -> str | None:
    kind = getattr(diffusers, name, None)
    if kind is None:
        return f"diffusers has no scheduler {name!r}; tested are: {', '.join(SOLVERS)}"
    return of_another_family(scheduler, kind)


@contextmanager
def _solver_apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    name, steps = text(settings, "scheduler"), int(number(settings, "steps"))
    # A copy even of its own: what a scheduler remembers of the last call has that call's steps.
    scheduler = (
        solver_like(pipeline.scheduler, getattr(diffusers, name), SOLVERS.get(name))
        if name
        else copy.deepcopy(pipeline.scheduler)
    )
    with (
        scheduler_in_place(pipeline, scheduler),
        intercepted(pipeline, lambda arguments: {**arguments, "num_inference_steps": steps}),
    ):
        yield


# ---- progress-bar-off


@contextmanager
def _no_bar(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with progress_bars(pipeline, disable=True):
        yield


SCHEDULE_TABLE = FixCode(_table_applies, _table_apply)
SET_BEGIN_INDEX = FixCode(_begin_applies, _begin_apply)
SOLVER_STEPS = FixCode(_solver_applies, _solver_apply)
PROGRESS_BAR_OFF = FixCode(
    lambda pipeline, device, settings: (
        None if hasattr(pipeline, "progress_bar") else "the pipeline has no progress bar"
    ),
    _no_bar,
)
