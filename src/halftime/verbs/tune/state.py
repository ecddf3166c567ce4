"""What an interrupted `tune` leaves behind, and how the next one takes it up: finished trials are
answered from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from halftime.base.store import read_json, write_json
from halftime.records import Session
from halftime.records.recipe import Choice
from halftime.records.tune import Partial, SweepPoint, Trial
from halftime.verbs.tune.bench import plan_key


def partial_path(recipe: Path) -> Path:
    """Where the unfinished run for a recipe is kept: recipe.toml -> recipe.partial.json."""
    return recipe.with_name(f"{recipe.stem}.partial.json")


@dataclass
class State:
    """Everything measured so far, written to `path` after each addition; without a path it is kept
    in memory."""

    partial: Partial
    path: Path | None = None
    resumed: bool = False

    def add(self, spent: float, **changes: object) -> None:
        """Put something in, and the file up to date."""
        self.partial = msgspec.structs.replace(self.partial, spent_seconds=spent, **changes)
        if self.path is not None:
            write_json(self.path, self.partial)

    def add_trial(self, spent: float, trial: Trial) -> None:
        """A finished trial."""
        self.add(spent, trials=(*self.partial.trials, trial))

    def trial(self, incumbent: tuple[Choice, ...], candidate: tuple[Choice, ...]) -> Trial | None:
        """What an earlier run measured for these two plans."""
        wanted = plan_key(incumbent), plan_key(candidate)
        return next(
            (
                t
                for t in self.partial.trials
                if (plan_key(t.incumbent_plan), plan_key(t.candidate_plan)) == wanted
            ),
            None,
        )

    @property
    def session(self) -> Session | None:
        return self.partial.session

    @property
    def sweep(self) -> tuple[SweepPoint, ...]:
        return self.partial.sweep


def opened(path: Path | None, fresh: Partial) -> State:
    """The state of an interrupted run with the same model, workload and machine, or a new one.

    Raises BadFile for a broken file; one of another model, workload or machine is started anew.
    """
    if path is not None and path.is_file():
        found = read_json(path, Partial)
        same = (found.architecture, found.workload_hash, found.environment) == (
            fresh.architecture,
            fresh.workload_hash,
            fresh.environment,
        )
        if same:
            return State(found, path, resumed=True)
    return State(fresh, path)
