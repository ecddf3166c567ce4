"""The space of approximate settings: single ones from harmless to harsh, and pairs of the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from halftime.fix.base import number
from halftime.fix.deep_cache import full_steps_to_end
from halftime.fix.guard import why_not
from halftime.fix.table import FIXES
from halftime.pipeline.state import PipelineState, state_of
from halftime.records import Json
from halftime.records.recipe import Choice
from halftime.verbs.tune.candidates import combine, conflict_free, described
from halftime.verbs.tune.decide import Choices
from halftime.verbs.tune.threshold import search_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

STEP_SHARES = (0.93, 0.8, 0.67, 0.53)  # of the workload's steps, with the pipeline's own solver
SOLVER, SOLVER_SHARES = "DPMSolverMultistepScheduler", (0.67, 0.4)
GUIDED = (0.95, 0.9, 0.8, 0.7)  # of the steps, from the first on
FULL_SHARE = 1 / 6  # of the steps, evaluated in full before a cache of deep features begins
MOST_VALUES = 3  # of a setting that has a scale; harsher ones come after these only
# What runs the denoiser, and stands in where a setting takes the place of what ran it before.
STAND_INS: Choices = (Choice(name="denoiser-dtype"),)


class Setting(NamedTuple):
    """What is put on beside the equivalent fixes, and the whole plan with it."""

    changes: Choices
    plan: Choices

    def __str__(self) -> str:
        return " + ".join(map(described, self.changes))


def singles(pipeline: DiffusionPipeline, steps: int) -> list[Choice]:
    """Every approximate fix that applies, with the settings that are worth a look: the most
    harmless of each first, for where time is short."""
    state = state_of(pipeline)
    proposals = [*_steps(pipeline, steps), *_guidance(), *_others(steps)]
    usable = [choice for choice in proposals if _applies(pipeline, choice, state)]
    ranks = Counter[tuple[str, object]]()
    ranked = []
    for choice in usable:
        scale = choice.name, choice.settings.get("kind", choice.settings.get("scheduler"))
        ranked.append((ranks[scale], choice))
        ranks[scale] += 1
    return [choice for _, choice in sorted(ranked, key=lambda entry: entry[0])]


def _applies(pipeline: DiffusionPipeline, choice: Choice, state: PipelineState) -> bool:
    fix = FIXES[choice.name]
    return why_not(fix, pipeline, fix.with_defaults(choice.settings), state) is None


def _steps(pipeline: DiffusionPipeline, steps: int) -> Iterator[Choice]:
    own = type(pipeline.scheduler).__name__ == SOLVER
    solvers = (("", STEP_SHARES), *(() if own else ((SOLVER, SOLVER_SHARES),)))
    for scheduler, shares in solvers:
        for count in dict.fromkeys(max(1, round(share * steps)) for share in shares):
            if count < steps:
                settings: dict[str, Json] = {"scheduler": scheduler, "steps": count}
                yield Choice(name="solver-steps", settings=settings)


def _guidance() -> Iterator[Choice]:
    for stop in GUIDED:
        yield Choice(name="guidance-interval", settings={"stop": stop})


def _others(steps: int) -> Iterator[Choice]:
    for name, fix in FIXES.items():
        if fix.level != "approximate" or fix.not_tried or name == "guidance-interval":
            continue
        for settings in fix.proposals:
            choice = Choice(name=name, settings=settings)
            search = search_of(choice)
            values = search.values[:MOST_VALUES] if search else ()
            variants = [_with(choice, search.setting, value) for value in values] if search else []
            for variant in variants or [choice]:
                yield with_full_ends(variant, steps)


def is_deep(choice: Choice) -> bool:
    """Whether it is the cache of a UNet's deep features."""
    return choice.name == "step-cache" and choice.settings.get("kind") == "deep"


def with_full_ends(choice: Choice, steps: int, share: float = FULL_SHARE) -> Choice:
    """A cache of deep features that evaluates this share of the steps at first, two at least, and
    the last one in full. Any other fix as it is."""
    if not is_deep(choice):
        return choice
    every = int(number(FIXES[choice.name].with_defaults(choice.settings), "every"))
    count = full_steps_to_end(steps, every, max(2, round(share * steps)))
    return _with(choice, "full_steps", count)


def _with(choice: Choice, setting: str, value: float) -> Choice:
    return msgspec.structs.replace(choice, settings={**choice.settings, setting: value})


def on_top(pipeline: DiffusionPipeline, plan: Choices, changes: Sequence[Choice]) -> Setting | None:
    """The plan with these changes; what runs the denoiser is replaced where it had to go. None
    where they exclude each other."""
    joined, gone = plan, False
    for change in changes:
        joined, replaced = combine(joined, change)
        gone = gone or bool(replaced)
    if any(change not in joined for change in changes):
        return None
    state = state_of(pipeline) if gone else None
    for stand_in in STAND_INS if state is not None else ():
        assert state is not None
        names = {choice.name for choice in joined}
        if (
            stand_in.name not in names
            and _applies(pipeline, stand_in, state)
            and conflict_free((*joined, stand_in))
        ):
            joined = (*joined, stand_in)
    return Setting(tuple(changes), joined) if conflict_free(joined) else None


def pairs(best: Sequence[Setting]) -> list[Choices]:
    """Two settings of different fixes together: harmless alone is not harmless together, so each
    pair is looked at like any other."""
    return [
        _in_fewer_steps((*left.changes, *right.changes))
        for left, right in combinations(best, 2)
        if not {c.name for c in left.changes} & {c.name for c in right.changes}
    ]


def _in_fewer_steps(changes: Choices) -> Choices:
    """A cache beside fewer steps: their last one is in full."""
    counts = [int(number(c.settings, "steps")) for c in changes if c.name == "solver-steps"]
    return tuple(with_full_ends(choice, counts[0]) for choice in changes) if counts else changes
