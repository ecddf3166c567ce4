"""`applied`: put a plan's fixes on a pipeline for a while, in the table's order, and take them all
back."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from halftime.base.environment import versions
from halftime.base.errors import BadInput, DoesNotApply, HalftimeWarning, Unlike
from halftime.base.store import read_bytes, read_toml
from halftime.fix.artefacts import Kept, kept, made_for
from halftime.fix.base import Fix
from halftime.fix.table import FIXES
from halftime.pipeline.device import device_of
from halftime.records import Json, Session
from halftime.records.fixes import ALWAYS, CONFLICTS, FIX_ROWS
from halftime.records.recipe import Choice, Plan, Recipe

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

PlanLike = Plan | Recipe | Path | str | Sequence[str | Choice]


class Chosen(NamedTuple):
    """A fix with its complete settings."""

    fix: Fix
    settings: dict[str, Json]


@contextmanager
def applied(
    pipeline: DiffusionPipeline, plan: PlanLike, artefacts: Path | str | None = None
) -> Iterator[DiffusionPipeline]:
    """The pipeline with the fixes of `plan`; on exit it is bit for bit what it was.

    `plan` is a Plan, a Recipe, the path of either's TOML file, or a list of names of
    `halftime.FIXES`. `artefacts` is a file's name: compiled code is taken from it where it is
    there, and what was compiled is in it afterwards. It holds code that torch runs: name only files
    of your own. Raises BadInput for an unknown name or setting, Unlike for a recipe of another
    architecture, DoesNotApply where a fix cannot work here or two exclude each other, BadFile for
    artefacts that are damaged or none. Warns where recipe or artefacts were made with another torch
    or device.
    """
    found = read_plan(plan)
    if isinstance(found, Recipe):
        check_recipe(found, pipeline)
    chosen = choose(found)
    check(pipeline, chosen)
    with ExitStack() as stack:
        if artefacts is not None:
            stack.enter_context(kept_artefacts(pipeline, found, artefacts))
        for fix, settings in chosen:
            stack.enter_context(fix.apply(pipeline, settings))
        yield pipeline


def kept_artefacts(
    pipeline: DiffusionPipeline, plan: Plan | Recipe, path: Path | str
) -> AbstractContextManager[Kept]:
    """The file of this pipeline's compiled code under this plan, open. Raises BadFile."""
    return kept(Path(path), made_for(device_of(pipeline), plan, architecture(pipeline)))


def read_plan(plan: PlanLike) -> Plan | Recipe:
    """Whatever names fixes, as a record. A TOML file with an architecture is a recipe. Raises
    BadFile or BadInput."""
    if isinstance(plan, Plan | Recipe):
        return plan
    if isinstance(plan, str | Path):
        kind: type[Plan] | type[Recipe] = Recipe if b"[architecture]" in read_bytes(plan) else Plan
        return read_toml(plan, kind)
    return Plan(
        fixes=tuple(each if isinstance(each, Choice) else Choice(name=each) for each in plan)
    )


def choose(plan: Plan | Recipe) -> list[Chosen]:
    """The fixes in the order of application, with complete settings. Raises BadInput or
    DoesNotApply (conflicts)."""
    names = [choice.name for choice in plan.fixes]
    for name in names:
        if name not in FIXES:
            raise BadInput(f"there is no fix {name!r}. There are: {', '.join(sorted(FIXES))}.")
        if names.count(name) > 1:
            raise BadInput(f"fix {name!r} is named {names.count(name)} times; name it once.")
    ordered = sorted(plan.fixes, key=lambda choice: list(FIX_ROWS).index(choice.name))
    chosen = [Chosen(FIXES[c.name], dict(FIXES[c.name].with_defaults(c.settings))) for c in ordered]
    for one, other in combinations(chosen, 2):
        reason = conflict(one, other)
        if reason:
            raise DoesNotApply(
                f"{one.fix.name} and {other.fix.name} exclude each other: {reason}. Leave one out."
            )
    return chosen


def conflict(one: Chosen, other: Chosen) -> str | None:
    """Why two fixes cannot stand together, or None."""
    names = {one.fix.name, other.fix.name}
    for pair, reason in ALWAYS:
        if pair == names and _both_on_denoiser(one, other):
            return reason
    shared = one.fix.parts(one.settings) & other.fix.parts(other.settings)
    for part, group in CONFLICTS:
        if part in shared and names <= group:
            return f"both work on the {part}"
    return None


def _both_on_denoiser(one: Chosen, other: Chosen) -> bool:
    """A runtime that takes the VAE only is in nobody's way on the denoiser."""
    runtimes = [each for each in (one, other) if each.fix.is_runtime]
    return all("denoiser" in each.fix.parts(each.settings) for each in runtimes)


def open_findings(session: Session, plan: Plan | Recipe) -> Session:
    """The session that was measured with a plan on, without findings whose fix is in it or cannot
    stand beside it.

    What a fix took over cannot be seen as it was: the loop in a graph is all glue, a runtime's
    weights are still fp32.
    """
    chosen = choose(plan)

    def settled(name: str) -> bool:
        fix = FIXES[name]
        own = Chosen(fix, dict(fix.with_defaults({})))
        return any(each.fix.name == name or conflict(own, each) for each in chosen)

    left = tuple(
        each for each in session.findings if each.fix not in FIXES or not settled(each.fix)
    )
    return msgspec.structs.replace(session, findings=left)


def check(pipeline: DiffusionPipeline, chosen: Sequence[Chosen]) -> None:
    """Raises DoesNotApply for the first fix that cannot work on this pipeline."""
    device = device_of(pipeline)
    for fix, settings in chosen:
        reason = fix.applies(pipeline, device, settings)
        if reason:
            raise DoesNotApply(f"fix {fix.name!r} does not apply: {reason}.")


def reasons(pipeline: DiffusionPipeline) -> dict[str, str | None]:
    """Every fix with its defaults: why it does not apply to this pipeline on its device, or None
    where it does."""
    device = device_of(pipeline)
    return {name: fix.applies(pipeline, device, fix.settings) for name, fix in FIXES.items()}


# ---- recipes


def architecture(pipeline: DiffusionPipeline) -> dict[str, str]:
    """Component -> class, and for modules a hash over the names and shapes of their parameters."""
    from torch import nn

    found = {}
    for name, component in sorted(pipeline.components.items()):
        if isinstance(component, nn.Module):
            found[name] = f"{type(component).__name__}:{_shapes_hash(component)}"
    return found


def _shapes_hash(module: nn.Module) -> str:
    shapes = [f"{name}{tuple(parameter.shape)}" for name, parameter in module.named_parameters()]
    return hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:12]


def check_recipe(recipe: Recipe, pipeline: DiffusionPipeline) -> None:
    """Raises Unlike for another architecture; warns where the software or the device differs."""
    here = architecture(pipeline)
    for name in sorted(here.keys() | recipe.architecture.keys()):
        theirs, ours = recipe.architecture.get(name, "nothing"), here.get(name, "nothing")
        if theirs != ours:
            raise Unlike(
                f"the recipe is for another architecture: {name} is {theirs} there and {ours} "
                "here. "
                "Make one for this pipeline with: halftime tune"
            )
    for difference in _differences(recipe, pipeline):
        words = f"the recipe was made with another {difference}; verify it again here."
        warnings.warn(words, HalftimeWarning, stacklevel=4)


def _differences(recipe: Recipe, pipeline: DiffusionPipeline) -> list[str]:
    made = recipe.environment
    if made is None:
        return []
    here = versions()
    found = [
        f"{package} ({made.versions[package]}, here {here.get(package, 'none')})"
        for package in ("torch", "diffusers")
        if package in made.versions and made.versions[package] != here.get(package)
    ]
    device = device_of(pipeline).type
    return found + (
        [f"device ({made.device}, here {device})"] if made.device.split(":")[0] != device else []
    )
