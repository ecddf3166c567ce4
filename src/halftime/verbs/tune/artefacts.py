"""Compile artefacts beside a recipe, from a fresh process, so that they hold just what it needs.

`python -m halftime.verbs.tune.artefacts` is that process; it reads its task from standard input.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from halftime.base.store import read_toml
from halftime.fix.apply import applied, starts_on_host
from halftime.fix.artefacts import beside, compiles
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.load import load
from halftime.records import Record, Workload
from halftime.records.recipe import Recipe
from halftime.verbs.profile.call import quiet_progress_bars
from halftime.verbs.profile.coldstart import in_fresh_process


class ArtefactsTask(Record, frozen=True, kw_only=True):
    """What the fresh process is to do."""

    model: str | None
    workload: Workload
    recipe: str


def save(model: str | None, workload: Workload, recipe: Path) -> Path | None:
    """Write a recipe's artefacts beside its file; None where it compiles nothing.

    Raises HalftimeError.
    """
    if not compiles(read_toml(recipe, Recipe)):
        return None
    in_fresh_process(
        "halftime.verbs.tune.artefacts",
        ArtefactsTask(model=model, workload=workload, recipe=str(recipe)),
    )
    return beside(recipe) if beside(recipe).is_file() else None


def run(task: ArtefactsTask) -> None:
    """One call with the recipe on."""
    pipeline = load(task.model, task.workload, on_host=starts_on_host(task.recipe)).pipeline
    with (
        quiet_progress_bars(pipeline),
        applied(pipeline, task.recipe, beside(task.recipe), probe=False),
    ):
        pipeline(**call_arguments(pipeline, task.workload))


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        run(msgspec.json.decode(sys.stdin.buffer.read(), type=ArtefactsTask))
