"""Solver x steps against quality: what each setting takes, how far its pictures are from the
many-step ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from halftime.base.progress import Progress
from halftime.base.stats import median
from halftime.fix.apply import applied
from halftime.fix.scheduling import SOLVERS
from halftime.fix.table import FIXES
from halftime.pipeline.device import device_of
from halftime.records import Json, Workload
from halftime.records.recipe import Choice, Plan
from halftime.records.tune import SweepPoint
from halftime.verbs.tune.bench import twin
from halftime.verbs.tune.decide import Budget, cheapest, pareto
from halftime.verbs.tune.quality import AGREEMENT
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.metrics import kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired
from halftime.verbs.verify.render import PicturePrompt, render

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Of the workload's steps, in the order of trying: where time is short, the middle is known first.
SHARES = (0.4, 0.67, 0.27, 0.5, 0.8, 0.13)


def settings_to_try(pipeline: DiffusionPipeline, steps: int) -> list[dict[str, Json]]:
    """Solvers that apply, the pipeline's own first, at fewer steps."""
    fix, device = FIXES["solver-steps"], device_of(pipeline)
    counts = [
        count
        for count in dict.fromkeys(max(1, round(share * steps)) for share in SHARES)
        if count != steps
    ]
    names = ["", *(name for name in SOLVERS if name != type(pipeline.scheduler).__name__)]
    grid: list[dict[str, Json]] = [
        {"scheduler": name, "steps": count} for name in names for count in counts
    ]
    return [each for each in grid if fix.applies(pipeline, device, fix.with_defaults(each)) is None]


def sweep(
    pipeline: DiffusionPipeline,
    reference: PictureSet,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    *,
    loss: float,
    budget: Budget,
    progress: Progress,
) -> tuple[SweepPoint, ...]:
    """Every setting that fits into the budget, judged; `reference` are the many-step pictures of
    the same prompts.

    Without other fixes: they would be converted anew for each setting, and what is compared is
    settings.
    """
    found: list[SweepPoint] = []
    grid = settings_to_try(pipeline, workload.steps)
    longest = 0.0
    for index, settings in enumerate(grid):
        progress("solver x steps", index, len(grid))
        if not budget.allows(1.5 * longest):
            break
        begun = time.perf_counter()
        found += _point(pipeline, settings, reference, workload, prompts)
        longest = max(longest, time.perf_counter() - begun)
    return marked(found, loss)


def _point(
    pipeline: DiffusionPipeline,
    settings: dict[str, Json],
    reference: PictureSet,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
) -> Iterator[SweepPoint]:
    name = str(settings["scheduler"]) or type(pipeline.scheduler).__name__
    own = twin(pipeline)
    plan = Plan(fixes=(Choice(name="solver-steps", settings=settings),))
    try:
        with applied(own, plan):
            render(own, workload, prompts[:1], "warm-up")
            times: list[float] = []
            drawn: list[Picture] = []
            for index, prompt in enumerate(prompts):
                begun = time.perf_counter()
                one = msgspec.structs.replace(workload, seed=workload.seed + index)
                drawn += render(own, one, [prompt], "sweep").pictures
                times.append(time.perf_counter() - begun)
    except Exception:  # a solver that fails on this model is no point of the plot
        return
    flip, agreement = _distance(reference.first(len(drawn)), PictureSet("sweep", tuple(drawn)))
    steps = settings["steps"]
    assert isinstance(steps, int)
    yield SweepPoint(
        scheduler=name, steps=steps, seconds=median(times), flip=flip, agreement=agreement
    )


def _distance(reference: PictureSet, drawn: PictureSet) -> tuple[float, float | None]:
    pairs = paired(reference, drawn)
    tools = kit([p for pair in pairs for p in pair], judges.find(None), "not asked for")
    rows = [tools.measure(one, other) for one, other in pairs]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in tools.functions}
    return means["flip"], means.get("agreement")


def marked(points: Sequence[SweepPoint], loss: float) -> tuple[SweepPoint, ...]:
    """The points with what is on the Pareto front, inside the budget, and the cheapest of those."""
    inside = [p.flip <= loss and (p.agreement is None or p.agreement >= AGREEMENT) for p in points]
    front = pareto(points)
    judged = [
        msgspec.structs.replace(point, pareto=on_front, within_budget=within)
        for point, on_front, within in zip(points, front, inside, strict=True)
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
