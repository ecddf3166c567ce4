"""What can be tried on a pipeline, and how one more fix joins the plan so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import HalftimeError
from halftime.fix.apply import choose, conflict
from halftime.fix.base import ChosenFix
from halftime.fix.guard import why_not
from halftime.fix.table import FIXES
from halftime.pipeline.state import PipelineState, state_of
from halftime.records import Json
from halftime.records.base import Scalar
from halftime.records.priors import components_of
from halftime.records.recipe import Choice, Plan, Rung
from halftime.verbs.tune.decide import Choices

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


# Settings with which a fix goes with more of the others: most caches go with compiled blocks alone,
# and what changes weights with components that are moved as a whole.
_GIVES_WAY: dict[str, dict[str, Json]] = {
    "denoiser-compile": {"region": "blocks"},
    "offload": {"kind": "model"},
}


def candidates(
    pipeline: DiffusionPipeline, approximate: bool, device: torch.device | None = None
) -> tuple[list[Choice], list[Rung]]:
    """Fixes to try, each with its settings; and a rung for each that is not tried, with the
    reason. `device` is where it will compute, where it is on the host for now."""
    choices: list[Choice] = []
    refused: list[Rung] = []
    state = state_of(pipeline)
    for name, fix in FIXES.items():
        usable, reason = _usable(pipeline, name, approximate, state, device)
        choices += usable
        if not usable:
            refused.append(Rung(fix=name, level=fix.level, why=reason))
    return choices, refused


def _usable(
    pipeline: DiffusionPipeline,
    name: str,
    approximate: bool,
    state: PipelineState,
    device: torch.device | None,
) -> tuple[list[Choice], str]:
    """One fix with each of its proposals that applies, or why none is tried."""
    fix = FIXES[name]
    if fix.level == "approximate" and not approximate:
        return [], "approximate; allow it with --allow approximate"
    if fix.not_tried:
        return [], fix.not_tried
    reasons = [
        why_not(fix, pipeline, fix.with_defaults(settings), state, device)
        for settings in fix.proposals
    ]
    usable = [
        Choice(name=name, settings=settings)
        for settings, reason in zip(fix.proposals, reasons, strict=True)
        if reason is None
    ]
    return usable, f"does not apply: {reasons[0]}"


def combine(plan: Choices, added: Choice) -> tuple[Choices, Choices]:
    """The plan with one more fix, and what had to go, or to give something up, for it.

    A runtime that is there already takes one more component. One that is in the way gives up the
    component that both work on, and goes altogether where nothing is left.
    """
    joined = _joined(plan, added)
    combined: list[Choice] = []
    changed: list[Choice] = []
    for choice in plan:
        if choice.name == joined.name:
            changed += [] if FIXES[choice.name].is_runtime else [choice]
            continue
        smaller = _beside(choice, joined)
        combined += [smaller] if smaller is not None else []
        changed += [choice] if smaller != choice else []
    return (*combined, joined), tuple(changed)


def _joined(plan: Choices, added: Choice) -> Choice:
    same = next((choice for choice in plan if choice.name == added.name), None)
    if same is None or not FIXES[added.name].is_runtime:
        return added
    names: list[Scalar] = [*sorted({*components_of(same.settings), *components_of(added.settings)})]
    return msgspec.structs.replace(added, settings={**same.settings, "components": names})


def _beside(choice: Choice, joined: Choice) -> Choice | None:
    """`choice` where both work together, with fewer components or in its way that goes with more
    where that suffices, or None."""
    if not clash(choice, joined):
        return choice
    names = components_of(choice.settings)
    for name in names:
        fewer: list[Scalar] = [component for component in names if component != name]
        smaller = msgspec.structs.replace(choice, settings={**choice.settings, "components": fewer})
        if fewer and not clash(smaller, joined):
            return smaller
    yielding = _GIVES_WAY.get(choice.name)
    if yielding is None:
        return None
    smaller = msgspec.structs.replace(choice, settings={**choice.settings, **yielding})
    return None if clash(smaller, joined) else smaller


def clash(left: Choice, right: Choice) -> str | None:
    """Why two fixes exclude each other, or None."""
    return conflict(_complete(left), _complete(right))


def _complete(choice: Choice) -> ChosenFix:
    fix = FIXES[choice.name]
    return ChosenFix(fix, dict(fix.with_defaults(choice.settings)))


def conflict_free(plan: Choices) -> bool:
    """Whether no two fixes of a plan exclude each other."""
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
