"""Solver x steps against quality: seconds, and distance from the many-step pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from halftime.base.progress import Progress
from halftime.base.stats import median
from halftime.fix.apply import applied
from halftime.fix.guard import why_not
from halftime.fix.scheduling import SOLVERS
from halftime.fix.table import FIXES
from halftime.pipeline.state import state_of
from halftime.pipeline.twin import twin
from halftime.records import Json, Workload
from halftime.records.recipe import Choice, Plan
from halftime.records.tune import SweepPoint
from halftime.verbs.tune.decide import Budget, Choices, cheapest, pareto
from halftime.verbs.tune.quality import AGREEMENT
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.metrics import kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired
from halftime.verbs.verify.render import PicturePrompt, render

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Of the workload's steps, in the order of trying: where time is short, the middle comes first.
SHARES = (0.4, 0.67, 0.27, 0.5, 0.8, 0.13)


def settings_to_try(pipeline: DiffusionPipeline, steps: int) -> list[dict[str, Json]]:
    """Solvers that apply, the pipeline's own first, at fewer steps."""
    fix, state = FIXES["solver-steps"], state_of(pipeline)
    counts = [
        count
        for count in dict.fromkeys(max(1, round(share * steps)) for share in SHARES)
        if count != steps
    ]
    names = ["", *(name for name in SOLVERS if name != type(pipeline.scheduler).__name__)]
    grid: list[dict[str, Json]] = [
        {"scheduler": name, "steps": count} for name in names for count in counts
    ]
    return [
        settings
        for settings in grid
        if why_not(fix, pipeline, fix.with_defaults(settings), state) is None
    ]


def sweep(
    pipeline: DiffusionPipeline,
    reference: PictureSet,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    *,
    loss: float,
    call_seconds: float,
    budget: Budget,
    progress: Progress,
    start: Choices = (),
) -> tuple[SweepPoint, ...]:
    """Every setting that fits into the budget, judged; `reference` holds the many-step pictures of
    the same prompts.

    Other fixes stay off: they would be converted anew for each setting, and only settings are
    compared; but for `start`, without which it does not fit into the memory.
    """
    points: list[SweepPoint] = []
    grid = settings_to_try(pipeline, workload.steps)
    # nothing is known of the first but the calls that it makes, and a solver may take two a step
    longest = (1 + len(prompts)) * call_seconds
    for index, settings in enumerate(grid):
        progress("solver x steps", index, len(grid))
        if not budget.allows(1.5 * longest):
            break
        begun = budget.clock()
        points += _point(pipeline, settings, reference, workload, prompts, budget.clock, start)
        longest = max(longest if index else 0.0, budget.clock() - begun)
    return marked(points, loss)


def _point(
    pipeline: DiffusionPipeline,
    settings: dict[str, Json],
    reference: PictureSet,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    clock: Callable[[], float],
    start: Choices,
) -> Iterator[SweepPoint]:
    name = str(settings["scheduler"]) or type(pipeline.scheduler).__name__
    solver = twin(pipeline)
    plan = Plan(fixes=(*start, Choice(name="solver-steps", settings=settings)))
    try:
        with applied(solver, plan):
            render(solver, workload, prompts[:1], "warm-up")
            times: list[float] = []
            pictures: list[Picture] = []
            for index, prompt in enumerate(prompts):
                begun = clock()
                seeded = msgspec.structs.replace(workload, seed=workload.seed + index)
                pictures += render(solver, seeded, [prompt], "sweep").pictures
                times.append(clock() - begun)
    except Exception:  # a solver that fails on this model has no point in the plot
        return
    candidate = PictureSet("sweep", tuple(pictures))
    flip, agreement = _distance(reference.first(len(pictures)), candidate)
    steps = settings["steps"]
    assert isinstance(steps, int)
    yield SweepPoint(
        scheduler=name, steps=steps, seconds=median(times), flip=flip, agreement=agreement
    )


def _distance(reference: PictureSet, candidate: PictureSet) -> tuple[float, float | None]:
    pairs = paired(reference, candidate)
    tools = kit([p for pair in pairs for p in pair], judges.find(None), "not asked for")
    rows = [tools.measure(left, right) for left, right in pairs]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in tools.functions}
    return means["flip"], means.get("agreement")


def marked(points: Sequence[SweepPoint], loss: float) -> tuple[SweepPoint, ...]:
    """The points, marked: the Pareto front, those within the loss, and the cheapest of those."""

    def within(point: SweepPoint) -> bool:
        return point.flip <= loss and (point.agreement is None or point.agreement >= AGREEMENT)

    judged = [
        msgspec.structs.replace(point, pareto=on_front, within_budget=within(point))
        for point, on_front in zip(points, pareto(points), strict=True)
    ]
    best = cheapest(judged)
    return tuple(msgspec.structs.replace(p, chosen=p is best) for p in judged)


def choice_of(points: Sequence[SweepPoint], own: str) -> Choice | None:
    """The chosen point as a fix; None where none is good enough. `own` is the pipeline's
    scheduler."""
    best = next((point for point in points if point.chosen), None)
    if best is None:
        return None
    name = "" if best.scheduler == own else best.scheduler
    return Choice(name="solver-steps", settings={"scheduler": name, "steps": best.steps})
