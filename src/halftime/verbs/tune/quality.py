"""The pictures of a plan against the baseline's: the verdict, and an approximate plan's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.base.progress import Progress
from halftime.pipeline.device import this_environment
from halftime.records.verdict import EVERYTHING, Verdict
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.decide import Choices, plan_key, trial_seconds
from halftime.verbs.verify.pictures import PictureSet
from halftime.verbs.verify.render import PicturePrompt, floor_sets, render
from halftime.verbs.verify.run import VerifySettings, verdict_of

if TYPE_CHECKING:
    from halftime.records import Workload

LOSS = 0.05  # mean FLIP error that an approximate recipe may have by default
AGREEMENT = -0.01  # and the judge's mean agreement with the prompt may fall by this
FEWEST_PROMPTS = 6  # a verification on fewer says nothing
CONFIRM_ROUNDS = 11  # of the last measurement, baseline and recipe in turns
_VERIFY_SHARE = 0.4  # of the budget, for verification and the last measurement
_FLOOR_PROMPTS = 4
_FLOOR_SETS = 4  # harmless variations of the baseline, at most

# What verification and the last measurement are expected to take, in baseline calls and seconds.
_CALLS_PER_PROMPT = 1.6  # a picture of the baseline, and one of a plan that is faster
_COMPARE_SECONDS = 0.15  # a pair of pictures through all metrics
_CALLS_PER_FLOOR_PICTURE = 1.2
_CALLS_PER_ROUND = 1.5
_METRICS_SECONDS = 8.0  # loading the metrics and the judge
_PROFILE_CALLS = 17  # a profile before: 7 calls; after: 7 of the baseline, 7 of a faster recipe


@dataclass
class Pictures:
    """Draws with any plan of a bench, and keeps what the baseline drew."""

    bench: Bench
    workload: Workload
    prompts: Sequence[PicturePrompt]
    progress: Progress
    baseline: PictureSet | None = None
    floors: dict[str, PictureSet] = field(default_factory=dict)
    # the last plan and number of pictures, and what came of them
    _last_key: tuple[bytes, int] | None = None
    _last_verdict: tuple[Verdict, PictureSet] | None = None

    def reference(self) -> PictureSet:
        """The baseline's pictures; with them harmless variations of some are drawn, the floors."""
        if self.baseline is None:
            pipeline = self.bench.at(()).pipeline
            baseline = render(
                pipeline, self.workload, self.prompts, "baseline", progress=self.progress
            )
            floor_prompts = self.prompts[:_FLOOR_PROMPTS]
            self.floors = floor_sets(pipeline, self.workload, floor_prompts, progress=self.progress)
            self.baseline = baseline
        return self.baseline

    def of(self, plan: Choices, count: int | None = None) -> PictureSet:
        """A plan's pictures of the first `count` prompts."""
        pipeline = self.bench.at(plan).pipeline
        return render(
            pipeline, self.workload, self.prompts[:count], "recipe", progress=self.progress
        )

    def verdict(self, plan: Choices, count: int | None = None) -> tuple[Verdict, PictureSet]:
        """What `verify` says of a plan, and the plan's pictures. The same question again draws
        nothing."""
        key = plan_key(plan), len(self.prompts[:count])
        if self._last_verdict is None or self._last_key != key:
            self._last_verdict = self._compare(plan, count)
            self._last_key = key
        return self._last_verdict

    def _compare(self, plan: Choices, count: int | None) -> tuple[Verdict, PictureSet]:
        reference, candidate = self.reference(), self.of(plan, count)
        size = len(candidate.pictures)
        self.progress("comparing", 0, 1)
        floors = {name: floor.first(size) for name, floor in self.floors.items()}
        settings = VerifySettings(floors=floors)
        environment = this_environment(self.workload.device or "cpu")
        return verdict_of(reference.first(size), candidate, settings, environment), candidate


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


def loss_words(verdict: Verdict) -> str:
    """'mean FLIP 0.021, agreement with the prompt -0.002'."""
    flip, agreement = distance(verdict, "flip"), distance(verdict, "agreement")
    words = [f"mean FLIP {flip:.3f}"] if flip is not None else []
    words += [f"agreement with the prompt {agreement:+.3f}"] if agreement is not None else []
    return ", ".join(words)


def seconds_needed(baseline: float, prompts: int) -> float:
    """What verification and the last measurement take; `baseline` is the seconds of a call."""
    floor_pictures = _FLOOR_SETS * _FLOOR_PROMPTS
    calls = (
        _CALLS_PER_PROMPT * prompts
        + _CALLS_PER_FLOOR_PICTURE * floor_pictures
        + _CALLS_PER_ROUND * CONFIRM_ROUNDS
    )
    return calls * baseline + _COMPARE_SECONDS * prompts + _METRICS_SECONDS


def least_seconds(baseline: float, prompts: int) -> float:
    """What the smallest run takes: profiles before and after, one trial, and verification on few of
    the prompts."""
    return (
        _PROFILE_CALLS * baseline
        + trial_seconds(baseline, baseline, 0.0)
        + seconds_needed(baseline, min(FEWEST_PROMPTS, prompts))
    )


def prompts_within(
    budget: float, baseline: float, prompts: int, share: float = _VERIFY_SHARE
) -> int:
    """How many of the prompts can be verified in that share of the budget; `FEWEST_PROMPTS` at
    least, where there are so many."""
    for count in range(prompts, FEWEST_PROMPTS, -1):
        if seconds_needed(baseline, count) <= share * budget:
            return count
    return min(FEWEST_PROMPTS, prompts)


def fewer_words(count: int, prompts: int, budget: float) -> str:
    """The note where the budget is too small for all prompts."""
    return (
        f"verified on {count} of {prompts} prompts: a budget of {units.seconds(budget)} does not "
        "allow more"
    )
