"""`halftime gate`: find both sides, measure them in turns, render, exit 0, 1 or 3."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base.store import check_writable, write_bytes
from halftime.base.units import parse_seconds, parse_share
from halftime.cli.around import look_around
from halftime.cli.options import model_argument, output_options, take_workload, workload_options
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar
from halftime.records.base import content_hash
from halftime.records.gate import Gate
from halftime.report.gate import github_annotations, junit

if TYPE_CHECKING:
    from collections.abc import Callable

    from halftime.base.progress import Progress
    from halftime.verbs.gate.run import GateSettings
    from halftime.verbs.gate.sides import Side

EXIT_CODES = {"pass": 0, "faster": 0, "slower": 1, "worse": 1, "undecided": 3}


@click.command()
@model_argument
@click.option(
    "--against",
    required=True,
    metavar="BASE",
    help="A git revision, an environment's folder, a recipe (.toml), requirements "
    "('diffusers==0.41.*' or a .txt), or 'baseline'.",
)
@click.option(
    "--recipe",
    metavar="TOML",
    help="With the fixes of a recipe or plan; another version of the same gets them, too.",
)
@click.option(
    "--budget", default="5m", show_default=True, help="Time for everything, pictures included."
)
@click.option(
    "--slower",
    default="3%",
    show_default=True,
    metavar="SHARE",
    help="From where on slower counts: pass means shown to be less so.",
)
@click.option(
    "--alpha",
    default="1%",
    show_default=True,
    metavar="SHARE",
    help="How often a verdict on speed may be wrong, whenever the run ends.",
)
@click.option(
    "--processes",
    default=3,
    show_default=True,
    help="Of either side, alive at once; 1 where memory is short.",
)
@click.option(
    "--pictures",
    default=12,
    show_default=True,
    help="Pictures of either side that are compared; 0 for none.",
)
@click.option("--exact", is_flag=True, help="No timing: counters and pictures alone.")
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="COUNTER",
    help="A counter that may rise, for example 'compiled graphs'.",
)
@click.option(
    "--bisect",
    "bisecting",
    is_flag=True,
    help="Find the first bad commit after BASE, or release in a range as 'diffusers>=0.38'.",
)
@click.option(
    "--bisect-state",
    default="halftime-bisect.json",
    show_default=True,
    metavar="FILE",
    help="Where --bisect keeps its answers, to go on from them.",
)
@click.option("--junit", "junit_file", metavar="FILE", help="Write JUnit XML.")
@click.option("--github", is_flag=True, help="Print GitHub annotations.")
@workload_options()
@output_options
def command(
    model: str | None,
    against: str,
    recipe: str | None,
    budget: str,
    slower: str,
    alpha: str,
    processes: int,
    pictures: int,
    exact: bool,
    allowed: tuple[str, ...],
    bisecting: bool,
    bisect_state: str,
    junit_file: str | None,
    github: bool,
    output: Output,
    **workload_values: object,
) -> int:
    """Is this version slower, does it wait more, are its pictures others?

    MODEL is a diffusers folder, a checkpoint in one file, a hub id, module:function returning a
    pipeline, or nothing for the bundled model. Exit code: 0 pass or faster, 1 slower or worse,
    3 undecided within the budget.
    """
    if junit_file:
        check_writable(junit_file)
    look_around(output.quiet)
    seconds = parse_seconds(budget)
    with progress_bar(output.quiet, at_most=seconds) as progress:
        progress("importing torch and diffusers", 0, 1)
        from halftime.pipeline.load import kind_of
        from halftime.verbs.gate.run import GateSettings, gate
        from halftime.verbs.gate.sides import alike, here, side_of

        settings = GateSettings(
            margin=parse_share(slower),
            alpha=parse_share(alpha),
            budget=seconds,
            processes=processes,
            pictures=pictures,
            exact=exact,
            allowed=allowed,
        )
        workload = take_workload(workload_values, model)
        kind_of(model)  # refuses what is no model
        candidate = here(recipe)

        def judge(base: Side, version: Side) -> Gate:
            sides = alike(base, candidate), alike(version, candidate)
            return gate(model, *sides, workload, settings, progress=progress)

        if bisecting:
            question = content_hash((model, recipe, workload, settings))
            record = _bisected(model, against, question, bisect_state, judge, settings, progress)
        else:
            progress(f"preparing {against}", 0, 1)
            with side_of(against, model) as base:
                record = judge(base, candidate)
    _give(record, output, junit_file, github=github)
    return EXIT_CODES[record.verdict]


def _bisected(
    model: str | None,
    against: str,
    question: str,
    file: str,
    judge: Callable[[Side, Side], Gate],
    settings: GateSettings,
    progress: Progress,
) -> Gate:
    """The gate of the first bad version after `against`, going on from the answers in `file`."""
    from halftime.verbs.gate.bisect import Bisect, bisect, resumed, versions_between
    from halftime.verbs.gate.sides import side_of

    fresh = Bisect(question=question, versions=versions_between(against))
    return bisect(
        resumed(Path(file), fresh),
        Path(file),
        judge,
        0.0 if settings.exact else 2 * settings.alpha,  # either end of the margin may be wrong
        prepare=lambda version: side_of(version, model),
        progress=progress,
    )


def _give(record: Gate, output: Output, junit_file: str | None, *, github: bool) -> None:
    if github:
        click.echo(github_annotations(record))
    emit(
        record, output._replace(quiet=output.quiet or github), extra=_own_files(record, junit_file)
    )


def _own_files(record: Gate, junit_file: str | None) -> list[ExtraFile]:
    if junit_file is None:
        return []
    return [ExtraFile(junit_file, partial(write_bytes, junit_file, junit(record)))]
