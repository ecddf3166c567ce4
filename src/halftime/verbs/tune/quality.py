"""The pictures of a plan against the baseline's: the verdict, and the loss of an approximate
one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.base.progress import Progress
from halftime.pipeline.device import this_environment
from halftime.records.verdict import EVERYTHING, Verdict
from halftime.verbs.tune.bench import Bench, Choices, plan_key
from halftime.verbs.tune.decide import trial_seconds
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, floor_sets, render
from halftime.verbs.verify.run import VerifySettings, verdict_of

if TYPE_CHECKING:
    from halftime.records import Workload

LOSS = 0.05  # mean FLIP error that an approximate recipe may have, unless told otherwise
AGREEMENT = -0.01  # and the judge's mean agreement with the prompt may fall by this
FEWEST_PROMPTS = 6  # that a verification is worth its name with
_FLOOR_PROMPTS = 4


@dataclass
class Pictures:
    """Draws with any plan of a bench, and remembers what the baseline drew."""

    bench: Bench
    workload: Workload
    prompts: Sequence[PicturePrompt]
    progress: Progress
    baseline: PictureSet | None = None
    floors: dict[str, PictureSet] = field(default_factory=dict)
    # plan, pictures, what came of them
    _last: tuple[bytes, int, tuple[Verdict, PictureSet]] | None = None

    def reference(self) -> PictureSet:
        """The baseline's pictures, and the harmless variations of some of them."""
        if self.baseline is None:
            pipeline = self.bench.at(()).pipeline
            drawn = render(
                pipeline, self.workload, self.prompts, "baseline", progress=self.progress
            )
            few = self.prompts[:_FLOOR_PROMPTS]
            self.floors = floor_sets(pipeline, self.workload, few, progress=self.progress)
            self.baseline = drawn
        return self.baseline

    def of(self, plan: Choices, count: int | None = None) -> PictureSet:
        """A plan's pictures of the first `count` prompts."""
        pipeline = self.bench.at(plan).pipeline
        return render(
            pipeline, self.workload, self.prompts[:count], "recipe", progress=self.progress
        )

    def verdict(self, plan: Choices, count: int | None = None) -> tuple[Verdict, PictureSet]:
        """Equivalent, different or not decided, by `verify`; and the plan's pictures. Asked again,
        nothing is drawn."""
        key, wanted = plan_key(plan), len(self.prompts[:count])
        if self._last is None or self._last[:2] != (key, wanted):
            self._last = (key, wanted, self._judged(plan, count))
        return self._last[2]

    def _judged(self, plan: Choices, count: int | None) -> tuple[Verdict, PictureSet]:
        base, drawn = self.reference(), self.of(plan, count)
        base = base.first(len(drawn.pictures))
        self.progress("comparing", 0, 1)
        floors = {
            name: PictureSet(one.label, one.pictures[: len(drawn.pictures)])
            for name, one in self.floors.items()
        }
        return verdict_of(
            base, drawn, VerifySettings(floors=floors), this_environment(self.workload.device)
        ), drawn


def distance(verdict: Verdict, metric: str) -> float | None:
    """The mean of one metric over all pairs."""
    found = [
        c.value for c in verdict.per_class if c.content_class == EVERYTHING and c.metric == metric
    ]
    return found[0] if found else None


def too_lossy(verdict: Verdict, budget: float) -> str:
    """Why the pictures of an approximate plan are beyond the loss that is allowed, or ''."""
    if verdict.trips and any(trip.side == "candidate" for trip in verdict.trips):
        return f"broken picture: {next(t.reason for t in verdict.trips if t.side == 'candidate')}"
    flip, agreement = distance(verdict, "flip"), distance(verdict, "agreement")
    if flip is None:
        return "no pair of pictures could be compared"
    if flip > budget:
        return f"too lossy: mean FLIP {flip:.3f}, allowed {budget:g}"
    if agreement is not None and agreement < AGREEMENT:
        return (
            f"too lossy: agreement with the prompt falls by {-agreement:.3f}, allowed "
            f"{-AGREEMENT:g}"
        )
    return ""


def loss_words(verdict: Verdict) -> str:
    """'mean FLIP 0.021, agreement with the prompt -0.002'."""
    named = (("flip", "mean FLIP", ".3f"), ("agreement", "agreement with the prompt", "+.3f"))
    found = [(words, distance(verdict, metric), form) for metric, words, form in named]
    return ", ".join(f"{words} {value:{form}}" for words, value, form in found if value is not None)


def seconds_needed(baseline: float, prompts: int) -> float:
    """What a verification and the last measurement take: pictures of both sides, the floor, the
    metrics."""
    return (
        prompts * (1.6 * baseline + 0.15)
        + 4 * _FLOOR_PROMPTS * 1.2 * baseline
        + 11 * 1.5 * baseline
        + 8.0
    )


def least_seconds(baseline: float, wanted: int) -> float:
    """What the smallest run takes: a profile before and after, one trial, and a verification of few
    pictures."""
    profiles = 17 * baseline
    return (
        profiles
        + trial_seconds(baseline, baseline, 0.0)
        + seconds_needed(baseline, min(FEWEST_PROMPTS, wanted))
    )


def prompts_within(budget: float, baseline: float, wanted: int, share: float = 0.4) -> int:
    """How many of the wanted prompts fit into that share of the seconds; never fewer than 6."""
    for count in range(wanted, FEWEST_PROMPTS, -1):
        if seconds_needed(baseline, count) <= share * budget:
            return count
    return min(FEWEST_PROMPTS, wanted)


def fewer_words(count: int, wanted: int, budget: float) -> str:
    """The note where the budget is too small for all prompts."""
    return (
        f"verified on {count} prompts of {wanted}: more do not fit into a budget of "
        f"{units.seconds(budget)}"
    )
