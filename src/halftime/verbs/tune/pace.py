"""How fast calls are by now, and how much more fits into the budget at that pace."""

from __future__ import annotations

from dataclasses import dataclass

from halftime.base.stats import median
from halftime.records.priors import setup_seconds
from halftime.verbs.tune.decide import Choices, plan_key
from halftime.verbs.tune.ending import Ending, ending_seconds, ending_within
from halftime.verbs.tune.measure import Measurements
from halftime.verbs.tune.quality import Pictures
from halftime.verbs.tune.search import slowness


@dataclass(frozen=True)
class CallPace:
    """Read from what was measured last: a machine may become slower while `tune` runs."""

    measurements: Measurements

    @property
    def slowness(self) -> float:
        """How much longer than expected fixes took to be put on, at most."""
        return slowness(self.measurements.state.partial.trials)

    def has_time_for(self, plan: Choices, pictures: Pictures) -> bool:
        """Whether one more plan can be put on, drawn with and compared, and the end be measured."""
        baseline, tuned = self.calls(plan)
        question = Ending(len(pictures.prompts), 0, 0, 0)
        end = Ending(0, 0, 4, 0)
        setup = sum(map(setup_seconds, plan)) * self.slowness
        return (
            setup
            + ending_seconds(question, 0.0, tuned, metrics=self.metrics_seconds(pictures))
            + ending_seconds(end, baseline, tuned, verified=True)
            <= self.measurements.budget.remaining()
        )

    def verify_fewer_if_slower(self, plan: Choices, pictures: Pictures) -> None:
        """Fewer pictures where the machine has become slower than it was at first."""
        baseline, tuned = self.calls(plan)
        metrics = self.metrics_seconds(pictures)
        ending = ending_within(
            self.measurements.budget.remaining(),
            baseline,
            tuned,
            len(pictures.prompts),
            metrics=metrics,
        )
        pictures.prompts = pictures.prompts[: ending.prompts]
        pictures.floor_prompts = min(pictures.floor_prompts, ending.floor_prompts)

    def calls(self, plan: Choices) -> tuple[float, float]:
        """Seconds of a call of the baseline and of one with `plan`, as they were last."""
        trials = [t for t in self.measurements.state.partial.trials if t.baseline]
        session = self.measurements.baseline()
        baseline = median(trials[-1].baseline) if trials else session.wall_seconds
        alive = self.measurements.bench.live.get(plan_key(plan))
        tuned = alive.call_seconds if alive else baseline
        for trial in reversed(trials):
            if plan_key(trial.candidate_plan) == plan_key(plan):
                # as much slower as the baseline has become since
                tuned = median(trial.candidate) * baseline / median(trial.baseline)
                break
        return baseline, tuned

    def metrics_seconds(self, pictures: Pictures) -> float:
        """What a comparison takes, on a machine that may have become slower than it was."""
        now, _ = self.calls(self.measurements.bench.start)
        first = self.measurements.baseline().wall_seconds
        return pictures.compare_seconds * max(1.0, now / first)

    def must_measure(self, pictures: Pictures) -> bool:
        """Whether drawing ends: what is left is needed for comparing and the last rounds."""
        baseline, tuned = self.calls(self.measurements.bench.start)
        metrics = self.metrics_seconds(pictures)
        end = ending_seconds(Ending(1, 0, 2, 0), baseline, tuned, metrics=metrics)
        return self.measurements.budget.remaining() <= end

    def ending(self, plan: Choices) -> Ending:
        """How much can still be measured, now that the pictures are compared."""
        left = self.measurements.budget.remaining()
        return ending_within(left, *self.calls(plan), 0, verified=True)
