"""Another solver in place of a pipeline's own: which can be, and how it is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

_FLOWS_ALONE = ("FlowMatch", "FlowMap", "Piflow")  # in the name of a class: it samples nothing else


def matches_flows(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler samples a flow-matching model: by its class, or as it is configured."""
    config: Mapping[str, object] = getattr(scheduler, "config", {})
    return (
        _is_of_flows(type(scheduler))
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def of_another_family(scheduler: SchedulerMixin, kind: type) -> str | None:
    """Why this class cannot sample what the scheduler samples, or None."""
    flows = matches_flows(scheduler)
    if flows and not _is_of_flows(kind) and "use_flow_sigmas" not in _parameters(kind):
        return f"{kind.__name__} cannot sample a flow-matching model"
    if not flows and _is_of_flows(kind):
        return f"{kind.__name__} samples flow-matching models only"
    return None


def solver_like(
    scheduler: SchedulerMixin, kind: type, options: Mapping[str, object] | None = None
) -> SchedulerMixin:
    """A scheduler of that class with the configuration of `scheduler`, for the same kind of model;
    `options` go before it where the class takes them, on models that do not match flows."""
    chosen = dict(options or {})
    if matches_flows(scheduler):
        shift = _shift(scheduler)
        chosen = {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            **({} if shift is None else {"flow_shift": shift, "shift": shift}),
        }
    accepted = {name: value for name, value in chosen.items() if name in _parameters(kind)}
    solver: SchedulerMixin = kind.from_config(scheduler.config, **accepted)  # type: ignore[attr-defined]
    return solver


def _is_of_flows(kind: type) -> bool:
    return kind.__name__.startswith(_FLOWS_ALONE)


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters  # type: ignore[misc]


def _shift(scheduler: SchedulerMixin) -> object:
    """The shift that the scheduler has, whatever its class calls it."""
    config: Mapping[str, object] = scheduler.config
    changed = hugging_face.shift_of(scheduler)
    return changed if changed is not None else config.get("shift", config.get("flow_shift"))
