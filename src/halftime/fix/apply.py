"""`applied`: put a plan's fixes on a pipeline, in the table's order, and take them all back."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from halftime.base.environment import versions
from halftime.base.errors import BadInput, DoesNotApply, HalftimeWarning, Unlike
from halftime.base.store import read_bytes, read_toml
from halftime.fix.artefacts import OpenArtefacts, made_for, open_artefacts
from halftime.fix.base import ChosenFix
from halftime.fix.blocks import block, sealed
from halftime.fix.certificate import other_model
from halftime.fix.guard import changed_components, why_not
from halftime.fix.offload import computing_device
from halftime.fix.probe import check_levels, probe_key
from halftime.fix.step_cache import not_together
from halftime.fix.table import FIXES
from halftime.pipeline.architecture import architecture as architecture
from halftime.pipeline.device import device_of
from halftime.pipeline.state import PipelineState, state_of
from halftime.records import Json, Session
from halftime.records.fixes import ALWAYS, CONFLICTS, EXCLUSIONS, FIX_ROWS, RENAMED, FixName
from halftime.records.recipe import Choice, Plan, Recipe

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PlanLike = Plan | Recipe | Path | str | Sequence[str | Choice]


@contextmanager
def applied(
    pipeline: DiffusionPipeline,
    plan: PlanLike,
    artefacts: Path | str | None = None,
    *,
    probe: bool | Mapping[str, object] = True,
) -> Iterator[DiffusionPipeline]:
    """The pipeline with the fixes of `plan`; on exit it is bit for bit what it was.

    `plan` is a Plan, a Recipe, the path of either's TOML file, or a list of names of
    `halftime.FIXES`. `artefacts` names a file: compiled code is taken from it where it exists, and
    what was compiled is added to it. It holds code that torch runs: name only your own files.
    `probe` compares two short calls, with and without the fixes that promise the same picture, the
    first time that they meet this pipeline; arguments of that call may be given as a mapping.
    Raises BadInput for an unknown name or setting, Unlike for a recipe of another architecture,
    DoesNotApply where a fix cannot work here or two exclude each other, BadFile for a file that is
    damaged or holds no artefacts. Warns where recipe or artefacts are from another torch or device.
    """
    plan = read_plan(plan)
    if isinstance(plan, Recipe):
        check_recipe(plan, pipeline)
    chosen = choose(plan)
    state = state_of(pipeline)
    check(pipeline, chosen, state)
    if probe is not False and not _was_probed(pipeline, plan, chosen, state):
        check_levels(pipeline, chosen, None if probe is True else probe, state=state)
    with block(pipeline, chosen) as stack:
        if artefacts is not None:
            stack.enter_context(kept_artefacts(pipeline, plan, artefacts))
        for fix, settings in chosen:
            stack.enter_context(fix.apply(pipeline, settings))
        if chosen:
            stack.enter_context(sealed(pipeline, chosen))
        yield pipeline


def _was_probed(
    pipeline: DiffusionPipeline,
    plan: Plan | Recipe,
    chosen: Sequence[ChosenFix],
    state: PipelineState,
) -> bool:
    """Whether a recipe comes with a probe of this architecture and state."""
    return isinstance(plan, Recipe) and plan.probed == probe_key(pipeline, chosen, state)


def kept_artefacts(
    pipeline: DiffusionPipeline, plan: Plan | Recipe, path: Path | str
) -> AbstractContextManager[OpenArtefacts]:
    """The file of this pipeline's compiled code under this plan, open. Raises BadFile."""
    return open_artefacts(Path(path), made_for(device_of(pipeline), plan, architecture(pipeline)))


def read_plan(plan: PlanLike) -> Plan | Recipe:
    """Whatever names fixes, as a record; a TOML file with an architecture is a recipe. Raises
    BadFile or BadInput."""
    if isinstance(plan, Plan | Recipe):
        return plan
    if isinstance(plan, str | Path):
        kind: type[Plan] | type[Recipe] = Recipe if b"[architecture]" in read_bytes(plan) else Plan
        return read_toml(plan, kind)
    return Plan(
        fixes=tuple(item if isinstance(item, Choice) else Choice(name=item) for item in plan)
    )


def starts_on_host(plan: PlanLike | None) -> bool:
    """Whether a plan brings the weights to the device by itself, which may be too small for them.
    Raises BadFile or BadInput."""
    return plan is not None and any(choice.name == "offload" for choice in read_plan(plan).fixes)


def choose(plan: Plan | Recipe) -> list[ChosenFix]:
    """The fixes in the order of application, with complete settings. Raises BadInput or
    DoesNotApply (conflicts)."""
    fixes = [_by_its_name(choice) for choice in plan.fixes]
    names = [choice.name for choice in fixes]
    for name in names:
        if name not in FIXES:
            raise BadInput(f"there is no fix {name!r}. There are: {', '.join(sorted(FIXES))}.")
        if names.count(name) > 1:
            raise BadInput(f"fix {name!r} is named {names.count(name)} times; name it once.")
    ordered = sorted(fixes, key=lambda choice: list(FIX_ROWS).index(choice.name))
    chosen = [
        ChosenFix(FIXES[c.name], dict(FIXES[c.name].with_defaults(c.settings))) for c in ordered
    ]
    for left, right in combinations(chosen, 2):
        reason = conflict(left, right)
        if reason:
            names_of_both = f"{left.fix.name} and {right.fix.name}"
            raise DoesNotApply(f"{names_of_both} exclude each other: {reason}. Leave one out.")
    return chosen


def _by_its_name(choice: Choice) -> Choice:
    """The fix under the name that it has now; warns where a plan has an earlier one."""
    if choice.name not in RENAMED:
        return choice
    name, settings = RENAMED[choice.name]
    words = f"the fix {choice.name!r} is now {name!r} with {settings}; name that in the plan."
    warnings.warn(words, HalftimeWarning, stacklevel=4)
    return Choice(name=name, settings={**settings, **choice.settings})


def conflict(left: ChosenFix, right: ChosenFix) -> str | None:
    """Why two fixes exclude each other, or None."""
    names = {left.fix.name, right.fix.name}
    # A runtime that takes the VAE only is in nobody's way on the denoiser.
    runtimes = [fix for fix in (left, right) if fix.fix.is_runtime]
    on_denoiser = all("denoiser" in runtime.fix.parts(runtime.settings) for runtime in runtimes)
    for pair, reason in ALWAYS:
        if pair == names and on_denoiser:
            return reason
    for rule in EXCLUSIONS if on_denoiser else ():
        for first, second in ((left, right), (right, left)):
            if _is(first, rule.left, rule.left_settings) and _is(
                second, rule.right, rule.right_settings
            ):
                return rule.reason
    shared = left.fix.parts(left.settings) & right.fix.parts(right.settings)
    for part, group in CONFLICTS:
        if part in shared and names <= group:
            return f"both work on the {part}"
    return None


def _is(choice: ChosenFix, name: FixName, settings: Mapping[str, Collection[Json]]) -> bool:
    return choice.fix.name == name and all(
        choice.settings[setting] in values for setting, values in settings.items()
    )


def open_findings(session: Session, plan: Plan | Recipe) -> Session:
    """A session under a plan, without findings whose fix is in the plan or excluded by it.

    A fix changes what the ledger shows: a loop in a graph is all glue, and a runtime's weights
    still look like fp32.
    """
    chosen = choose(plan)

    def settled(name: str) -> bool:
        fix = ChosenFix(FIXES[name], dict(FIXES[name].settings))
        return any(planned.fix.name == name or conflict(fix, planned) for planned in chosen)

    findings = tuple(
        finding
        for finding in session.findings
        if finding.fix not in FIXES or not settled(finding.fix)
    )
    return msgspec.structs.replace(session, findings=findings)


def check(
    pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix], state: PipelineState | None = None
) -> None:
    """Raises DoesNotApply for the first fix that cannot work on this pipeline; `state` is the
    pipeline's, where it was looked at already."""
    state = state_of(pipeline) if state is None else state
    reason = not_together(pipeline, chosen)
    if reason:
        raise DoesNotApply(f"{reason}.")
    device = computing_device(device_of(pipeline), chosen)
    for fix, settings in chosen:
        reason = why_not(fix, pipeline, settings, state, device)
        if reason:
            raise DoesNotApply(f"fix {fix.name!r} does not apply: {reason}.")
        if fix.name == "lora-fuse":  # those after it see no adapter
            fused = changed_components(fix, pipeline, settings)
            adapted = tuple(name for name in state.adapted if name not in fused)
            state = dataclasses.replace(state, adapted=adapted)


def reasons(pipeline: DiffusionPipeline) -> dict[str, str | None]:
    """Every fix with its defaults: why it does not apply to this pipeline on its device, or None
    where it does."""
    state = state_of(pipeline)
    return {name: why_not(fix, pipeline, fix.settings, state) for name, fix in FIXES.items()}


# ---- recipes


def check_recipe(recipe: Recipe, pipeline: DiffusionPipeline) -> None:
    """Raises Unlike for another architecture; warns where the software or the device differs, and
    where a certificate was given to other weights."""
    here = architecture(pipeline)
    for name in sorted(here.keys() | recipe.architecture.keys()):
        theirs, ours = recipe.architecture.get(name, "nothing"), here.get(name, "nothing")
        if theirs != ours:
            raise Unlike(
                f"the recipe is for another architecture: {name} is {theirs} there and {ours} "
                "here. Find one for this pipeline with: halftime tune"
            )
    void = other_model(recipe.certificate, pipeline) if recipe.certificate else ""
    if void:
        words = (
            f"the recipe's certificate does not hold here: {void}; certify it with tune --visible."
        )
        warnings.warn(words, HalftimeWarning, stacklevel=4)
    for difference in _differences(recipe, pipeline):
        words = f"the recipe was made with another {difference}; verify it again here."
        warnings.warn(words, HalftimeWarning, stacklevel=4)


def _differences(recipe: Recipe, pipeline: DiffusionPipeline) -> list[str]:
    """'torch (2.9.0, here 2.10.0)' for the software, and the kind of device."""
    there, here = recipe.environment, versions()
    if there is None:
        return []
    differences = [
        f"{package} ({there.versions[package]}, here {here.get(package, 'none')})"
        for package in ("torch", "diffusers")
        if package in there.versions and there.versions[package] != here.get(package)
    ]
    device = device_of(pipeline).type
    if there.device.split(":")[0] != device:
        differences.append(f"device ({there.device}, here {device})")
    return differences
