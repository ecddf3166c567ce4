"""What an interrupted `tune` leaves behind; the next one answers from it what was measured."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import msgspec

from halftime.base.errors import BadFile, HalftimeWarning
from halftime.base.store import read_json, write_json
from halftime.records import Session
from halftime.records.tune import Partial, SweepPoint, Trial
from halftime.verbs.tune.decide import Choices, plan_key


def partial_path(recipe: Path) -> Path:
    """Where the unfinished run for a recipe is kept: recipe.toml -> recipe.partial.json."""
    return recipe.with_name(f"{recipe.stem}.partial.json")


@dataclass
class TuneState:
    """Everything measured so far; with a `path` it is written there after each addition."""

    partial: Partial
    path: Path | None = None
    resumed: bool = False

    def add(self, spent: float, **changes: object) -> None:
        """Add a measurement, and write the file."""
        self.partial = msgspec.structs.replace(self.partial, spent_seconds=spent, **changes)
        if self.path is not None:
            try:
                write_json(self.path, self.partial)
            except BadFile as error:  # no reason to lose a measurement
                self.path = None
                warnings.warn(
                    f"an interrupted run will start anew: {error}", HalftimeWarning, stacklevel=2
                )

    def add_trial(self, spent: float, trial: Trial) -> None:
        """A finished trial."""
        self.add(spent, trials=(*self.partial.trials, trial))

    def trial(self, incumbent: Choices, candidate: Choices) -> Trial | None:
        """What was measured for these two plans before."""
        keys = plan_key(incumbent), plan_key(candidate)
        for trial in self.partial.trials:
            if (plan_key(trial.incumbent_plan), plan_key(trial.candidate_plan)) == keys:
                return trial
        return None

    @property
    def session(self) -> Session | None:
        return self.partial.session

    @property
    def sweep(self) -> tuple[SweepPoint, ...]:
        return self.partial.sweep


def opened(path: Path | None, fresh: Partial) -> TuneState:
    """The state of an interrupted run with the same model, workload and machine, or a new one.

    Raises BadFile for a broken file; one of another model, workload or machine is started anew.
    """
    if path is not None and path.is_file():
        partial = read_json(path, Partial)
        if _belongs_to(partial) == _belongs_to(fresh):
            return TuneState(partial, path, resumed=True)
    return TuneState(fresh, path)


def _belongs_to(partial: Partial) -> tuple[object, ...]:
    return (
        partial.architecture,
        partial.workload_hash,
        partial.environment,
        partial.memory_bytes,
    )
