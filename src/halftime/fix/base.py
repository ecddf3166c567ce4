"""What a fix is, and the few helpers that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from halftime.base.errors import BadInput
from halftime.pipeline.components import denoisers, vae_of
from halftime.records import Json, Session
from halftime.records.finding import ceiling
from halftime.records.fixes import FixRow

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

Settings = Mapping[str, Json]
Applies = Callable[["DiffusionPipeline", "torch.device", Settings], str | None]
Apply = Callable[["DiffusionPipeline", Settings], AbstractContextManager[None]]


class FixCode(NamedTuple):
    """What a fix does: one file of this folder gives it, `halftime.fix.table` enters it.

    `applies(pipeline, device, settings)` gives the reason why it cannot be applied, or None.
    `apply(pipeline, settings)` is a context manager: on its exit the pipeline is bit for bit what
    it was.
    """

    applies: Applies
    apply: Apply


class Fix(FixRow, frozen=True, kw_only=True):
    """A reversible change of a pipeline: its row of the table, and what it does (see `FixCode`)."""

    applies: Applies
    apply: Apply

    def ceiling(self, session: Session) -> float | None:
        """Amdahl's bound from a ledger: the speedup of the whole call if what the fix works on took
        no time; None where the ledger does not say."""
        row = session.row(self.stage)
        if row is not None and self.part:
            row = next((part for part in row.parts if part.stage == self.part), None)
        if row is None or self.ceiling_of == "unknown":
            return None
        if self.ceiling_of == "steady call":
            return ceiling(row.seconds, session.wall_seconds)
        if row.first_call_seconds is None or session.first_call_seconds is None:
            return None
        return ceiling(max(0.0, row.first_call_seconds - row.seconds), session.first_call_seconds)

    def with_defaults(self, settings: Settings) -> Settings:
        """The settings, complete. Raises BadInput for a name or a type that the fix does not
        know."""
        for name, value in settings.items():
            if name not in self.settings:
                names = ", ".join(self.settings) or "none"
                raise BadInput(f"fix {self.name!r} has no setting {name!r}. It has: {names}.")
            default = self.settings[name]
            if default is not None and not _same_kind(value, default):
                raise BadInput(
                    f"fix {self.name!r}: {name} is {value!r}; it must be like {default!r}."
                )
        return {**self.settings, **settings}


class ChosenFix(NamedTuple):
    """A fix with its complete settings."""

    fix: Fix
    settings: dict[str, Json]


def _same_kind(value: Json, default: Json) -> bool:
    if isinstance(default, float) and not isinstance(default, bool):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


# ---- reasons


def needs_vae(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    """A reason where there is no VAE."""
    return None if vae_of(pipeline) is not None else "the pipeline has no VAE with a decode method"


def needs_denoiser(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings
) -> str | None:
    """A reason where there is no denoiser."""
    return None if denoisers(pipeline) else "the pipeline has no unet or transformer"


def first_reason(*reasons: str | None) -> str | None:
    """The first that is a reason."""
    return next((reason for reason in reasons if reason), None)


def call(owner: object, method: str, *args: object) -> object:
    """Call a method that nn.Module's type does not know of."""
    return getattr(owner, method)(*args)


def text(settings: Settings, name: str) -> str:
    """A setting that is a string."""
    return str(settings[name])


def number(settings: Settings, name: str) -> float:
    """A setting that is a number."""
    value = settings[name]
    assert isinstance(value, int | float)
    return value


def one_of(settings: Settings, name: str, allowed: Sequence[str]) -> str | None:
    """A reason where the setting is none of the allowed values."""
    value = settings[name]
    return None if value in allowed else f"{name} is {value!r}; allowed are: {', '.join(allowed)}"
