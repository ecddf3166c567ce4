"""What can be tried on a pipeline, and how one more fix joins those that stand already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import HalftimeError
from halftime.fix.apply import Chosen, choose, conflict
from halftime.fix.table import FIXES
from halftime.pipeline.device import device_of
from halftime.records import Json
from halftime.records.base import Scalar
from halftime.records.fixes import FIX_ROWS
from halftime.records.priors import components_of
from halftime.records.recipe import Choice, Plan, Rung

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Choices = tuple[Choice, ...]


def candidates(pipeline: DiffusionPipeline, approximate: bool) -> tuple[list[Choice], list[Rung]]:
    """Fixes to try, each with its settings, and a rung for each that is not tried, with the
    reason."""
    found: list[Choice] = []
    refused: list[Rung] = []
    for name, fix in FIXES.items():
        usable, why = _usable(pipeline, name, approximate)
        found += usable
        if not usable:
            refused.append(Rung(fix=name, level=fix.level, why=why))
    return found, refused


def _usable(pipeline: DiffusionPipeline, name: str, approximate: bool) -> tuple[list[Choice], str]:
    """The settings of one fix that apply, or why none is tried."""
    fix, device = FIXES[name], device_of(pipeline)
    if fix.level == "approximate" and not approximate:
        return [], "approximate; allow it with --allow approximate"
    if fix.not_tried:
        return [], fix.not_tried
    reasons = [
        fix.applies(pipeline, device, fix.with_defaults(settings)) for settings in fix.proposals
    ]
    usable = [
        Choice(name=name, settings=settings)
        for settings, reason in zip(fix.proposals, reasons, strict=True)
        if reason is None
    ]
    return usable, f"does not apply: {reasons[0]}"


def combine(kept: Choices, added: Choice) -> tuple[Choices, Choices]:
    """The plan with one more fix, and what had to go, or to give something up, for it.

    A runtime that is there already takes one more component; one that is in the way gives up the
    component that both want, and goes altogether where nothing is left.
    """
    joined = _joined(kept, added)
    plan: list[Choice] = []
    gone: list[Choice] = []
    for other in kept:
        if other.name == joined.name:
            gone += [other] if not FIX_ROWS[other.name].is_runtime else []
            continue
        smaller = _made_room(other, joined)
        plan += [smaller] if smaller is not None else []
        gone += [other] if smaller != other else []
    return (*plan, joined), tuple(gone)


def _joined(kept: Choices, added: Choice) -> Choice:
    same = next((choice for choice in kept if choice.name == added.name), None)
    if same is None or not FIX_ROWS[added.name].is_runtime:
        return added
    parts: list[Scalar] = [*sorted({*components_of(same.settings), *components_of(added.settings)})]
    return msgspec.structs.replace(added, settings={**same.settings, "components": parts})


def _made_room(other: Choice, wanted: Choice) -> Choice | None:
    """`other` where both can stand, with fewer components where that suffices, or None."""
    if not clash(other, wanted):
        return other
    for part in components_of(other.settings):
        left: list[Scalar] = [p for p in components_of(other.settings) if p != part]
        smaller = msgspec.structs.replace(other, settings={**other.settings, "components": left})
        if left and not clash(smaller, wanted):
            return smaller
    return None


def clash(one: Choice, other: Choice) -> str | None:
    """Why two fixes cannot stand together, or None."""
    return conflict(_complete(one), _complete(other))


def _complete(choice: Choice) -> Chosen:
    fix = FIXES[choice.name]
    return Chosen(fix, dict(fix.with_defaults(choice.settings)))


def conflict_free(plan: Choices) -> bool:
    """Whether all of a plan can stand together."""
    try:
        choose(Plan(fixes=plan))
    except HalftimeError:
        return False
    return True


def described(choice: Choice) -> str:
    """'openvino (components: vae)'."""
    words = ", ".join(f"{name}: {_words(value)}" for name, value in choice.settings.items())
    return f"{choice.name} ({words})" if words else choice.name


def _words(value: Json) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
