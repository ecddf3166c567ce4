"""The pictures of a plan against the baseline's: the verdict, and an approximate plan's loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.base.progress import Progress
from halftime.pipeline.device import this_environment
from halftime.records.verdict import EVERYTHING, Verdict
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.decide import Choices, plan_key, trial_seconds
from halftime.verbs.tune.ending import METRICS_SECONDS, SMALLEST, ending_seconds
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, floor_sets, render
from halftime.verbs.verify.run import VerifySettings, verdict_of

if TYPE_CHECKING:
    from halftime.records import Workload

LOSS = 0.05  # mean FLIP error that an approximate recipe may have by default
_LEDGER_CALLS = 7  # of the baseline, for its ledger
AGREEMENT = -0.01  # and the judge's mean agreement with the prompt may fall by this


@dataclass
class Pictures:
    """Draws with any plan of a bench, and keeps what the baseline drew."""

    bench: Bench
    workload: Workload
    prompts: Sequence[PicturePrompt]
    progress: Progress
    floor_prompts: int = 4  # of each harmless variation
    # whether the time for drawing is over; then fewer pictures are compared
    enough: Callable[[], bool] = lambda: False
    baseline: PictureSet | None = None
    floors: dict[str, PictureSet] = field(default_factory=dict)
    compare_seconds: float = METRICS_SECONDS  # what the last comparison took
    # the last plan and number of pictures, and what came of them
    _last_key: tuple[bytes, int] | None = None
    _last_verdict: tuple[Verdict, PictureSet] | None = None

    def reference(self) -> PictureSet:
        """The baseline's pictures; with them harmless variations of some are drawn, the floors."""
        if self.baseline is None:
            pipeline = self.bench.at(self.bench.start).pipeline
            baseline = render(
                pipeline,
                self.workload,
                self.prompts,
                "baseline",
                progress=self.progress,
                enough=self.enough,
            )
            self.prompts = self.prompts[: len(baseline.pictures)]
            self.floors = floor_sets(
                pipeline,
                self.workload,
                self.prompts[: self.floor_prompts],
                progress=self.progress,
                enough=self.enough,
            )
            self.baseline = baseline
        return self.baseline

    def of(self, plan: Choices, count: int | None = None) -> PictureSet:
        """A plan's pictures of the first `count` prompts."""
        pipeline = self.bench.at(plan).pipeline
        return render(
            pipeline,
            self.workload,
            self.prompts[:count],
            "recipe",
            progress=self.progress,
            enough=self.enough,
        )

    def verdict(self, plan: Choices, count: int | None = None) -> tuple[Verdict, PictureSet]:
        """What `verify` says of a plan, and the plan's pictures. The same question again draws
        nothing."""
        key = plan_key(plan), len(self.prompts[:count])
        if self._last_verdict is None or self._last_key != key:
            self._last_verdict = self._compare(plan, count)
            self._last_key = key
        return self._last_verdict

    def take(
        self, plan: Choices, baseline: PictureSet | None, candidate: PictureSet, verdict: Verdict
    ) -> None:
        """A plan's pictures and verdict that were drawn elsewhere, with the baseline's."""
        self.baseline = baseline
        self.prompts = [
            PicturePrompt(p.prompt, p.content_class, p.name) for p in candidate.pictures
        ]
        self._last_key = plan_key(plan), len(self.prompts)
        self._last_verdict = verdict, candidate

    def _compare(self, plan: Choices, count: int | None) -> tuple[Verdict, PictureSet]:
        reference, candidate = self.reference(), self.of(plan, count)
        size = len(candidate.pictures)
        self.progress("comparing", 0, 1)
        floors = {name: floor.first(size) for name, floor in self.floors.items()}
        settings = VerifySettings(floors=floors)
        environment = this_environment(self.workload.device or "cpu")
        begun = self.bench.clock()
        verdict = verdict_of(reference.first(size), candidate, settings, environment)
        self.compare_seconds = self.bench.clock() - begun
        return verdict, candidate


def distance(verdict: Verdict, metric: str) -> float | None:
    """The mean of one metric over all pairs."""
    for comparison in verdict.per_class:
        if comparison.content_class == EVERYTHING and comparison.metric == metric:
            return comparison.value
    return None


def too_lossy(verdict: Verdict, budget: float) -> str:
    """Why the pictures of an approximate plan are beyond the loss that is allowed, or ''."""
    for trip in verdict.trips:
        if trip.side == "candidate":
            return f"broken picture: {trip.reason}"
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


def approximate_words(verdict: Verdict) -> str:
    """The note on a recipe with approximate fixes: a declared level is not the last word."""
    loss = loss_words(verdict)
    if verdict.verdict == "equivalent":
        return (
            "the recipe holds fixes that are approximate by their declaration; on "
            f"{verdict.pairs} pictures they are measured equivalent ({loss})"
        )
    return f"the recipe holds approximate fixes; their loss together: {loss}"


def loss_words(verdict: Verdict) -> str:
    """'mean FLIP 0.021, agreement with the prompt -0.002'."""
    flip, agreement = distance(verdict, "flip"), distance(verdict, "agreement")
    words = [f"mean FLIP {flip:.3f}"] if flip is not None else []
    words += [f"agreement with the prompt {agreement:+.3f}"] if agreement is not None else []
    return ", ".join(words)


def least_seconds(baseline: float, prompts: int) -> float:
    """What the smallest run takes: a ledger of the baseline, one trial, and the smallest ending."""
    smallest = SMALLEST._replace(prompts=min(SMALLEST.prompts, prompts))
    return (
        _LEDGER_CALLS * baseline
        + trial_seconds(baseline, baseline, 0.0)
        + ending_seconds(smallest, baseline, baseline)
    )


def fewer_words(count: int, prompts: int, budget: float) -> str:
    """The note where the budget is too small for all prompts."""
    return (
        f"verified on {count} of {prompts} prompts: a budget of {units.seconds(budget)} does not "
        "allow more"
    )
