"""What `tune` measures; what an interrupted run measured already is answered from its file."""

from __future__ import annotations

from dataclasses import dataclass

from halftime.base.progress import Progress
from halftime.fix.apply import open_findings
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Session, Workload
from halftime.records.recipe import Plan
from halftime.records.tune import SweepPoint, Trial
from halftime.verbs.profile.run import ProfileSettings, measure_in_turns
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.decide import NO_TIME, Budget, Choices
from halftime.verbs.tune.quality import Pictures
from halftime.verbs.tune.state import TuneState
from halftime.verbs.tune.sweep import sweep

PROFILE = ProfileSettings(runs=5, warmup=1, probes=False, pictures=False)
_SWEEP_PROMPTS = 6


@dataclass(frozen=True)
class Measurements:
    """One pipeline on one workload, within a budget; `state` keeps each result."""

    loaded: LoadedPipeline
    workload: Workload
    bench: Bench
    state: TuneState
    budget: Budget
    progress: Progress

    def baseline(self) -> Session:
        """The session of the pipeline as it is."""
        if self.state.session is not None:
            return self.state.session
        (session,) = self.profiles(self.bench.start)
        self.state.add(self.budget.spent(), session=session)
        return session

    def profiles(self, *plans: Choices, settings: ProfileSettings = PROFILE) -> list[Session]:
        """A session for each plan, measured in turns."""
        pipelines = [
            LoadedPipeline(self.bench.at(plan).pipeline, self.loaded.name, self.loaded.notes)
            for plan in plans
        ]
        sessions = measure_in_turns(pipelines, self.workload, settings, progress=self.progress)
        return [
            open_findings(session, Plan(fixes=plan))
            for session, plan in zip(sessions, plans, strict=True)
        ]

    def trial(self, incumbent: Choices, candidate: Choices) -> Trial:
        """Baseline, incumbent and candidate in turns."""
        earlier = self.state.trial(incumbent, candidate)
        if earlier is not None:
            return earlier
        self.bench.keep_only(self.bench.start, incumbent)
        trial = self.bench.trial(incumbent, candidate, self.progress, self.budget.allows)
        if trial.failure != NO_TIME:  # a run that goes on may have time for it
            self.state.add_trial(self.budget.spent(), trial)
        return trial

    def is_measured(self, incumbent: Choices, candidate: Choices) -> bool:
        """Whether this trial needs no time."""
        return self.state.trial(incumbent, candidate) is not None

    def sweep(self, pictures: Pictures, loss: float, call_seconds: float) -> tuple[SweepPoint, ...]:
        """Solver x steps against the baseline's pictures."""
        if self.state.sweep:
            return self.state.sweep
        points = sweep(
            self.loaded.pipeline,
            pictures.reference(),
            self.workload,
            pictures.prompts[:_SWEEP_PROMPTS],
            loss=loss,
            call_seconds=call_seconds,
            budget=self.budget,
            progress=self.progress,
            start=self.bench.start,
        )
        self.state.add(self.budget.spent(), sweep=points)
        return points
