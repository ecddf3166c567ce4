"""`halftime profile`: parse, measure, render."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base.errors import BadFile
from halftime.base.store import read_report
from halftime.cli.around import look_around
from halftime.cli.ending import journal
from halftime.cli.options import (
    artefacts_option,
    model_argument,
    output_options,
    take_artefacts,
    take_workload,
    workload_options,
)
from halftime.cli.output import Output, emit
from halftime.cli.screen import progress_bar
from halftime.records import Session, Workload
from halftime.report.model import Report

if TYPE_CHECKING:
    from halftime.base.neighbours import Surroundings
    from halftime.pipeline.load import LoadedPipeline


@click.command()
@model_argument
@workload_options()
@click.option("--runs", default=5, show_default=True, help="Steady runs.")
@click.option(
    "--warmup",
    default=1,
    show_default=True,
    help="Calls between the first and the first steady one.",
)
@click.option(
    "--cold-start/--no-cold-start",
    default=True,
    show_default=True,
    help="Measure a fresh process too.",
)
@click.option(
    "--probes/--no-probes",
    default=True,
    show_default=True,
    help="Count FLOPs and memory in calls of their own.",
)
@click.option(
    "--trace",
    "trace_folder",
    metavar="DIR",
    help="Trace one more call into DIR, for Perfetto and Nsight.",
)
@click.option("--recipe", metavar="TOML", help="Profile with the fixes of a recipe or plan.")
@artefacts_option
@click.option(
    "--against",
    metavar="JSON",
    help="Compare with an earlier session of the same workload and machine.",
)
@output_options
def command(
    model: str | None,
    runs: int,
    warmup: int,
    cold_start: bool,
    probes: bool,
    trace_folder: str | None,
    recipe: str | None,
    artefacts: str | None,
    against: str | None,
    output: Output,
    **workload_values: object,
) -> None:
    """Where does the time of one call go? A ledger of stages that adds up to the wall clock.

    MODEL is a diffusers folder, a checkpoint in one file, a hub id, module:function returning a
    pipeline, or nothing for the bundled model.
    """
    workload = take_workload(workload_values, model)
    base = _read_base(against, workload) if against else None
    artefacts = take_artefacts(artefacts, recipe, output.quiet)
    # A fresh process for the cold start would load the pipeline as it is.
    cold_start = cold_start and recipe is None
    surroundings = look_around(output.quiet)
    session = _measure(
        model,
        workload,
        runs,
        warmup,
        cold_start,
        probes,
        trace_folder,
        output.quiet,
        recipe,
        artefacts,
        surroundings,
    )
    emit(session, output, partial(_comparison, base, session) if base else None)


def _read_base(path: str, workload: Workload) -> Session:
    """The session to compare with. Raises Unlike for another workload, before minutes of work."""
    from halftime.verbs.profile.compare import checked_workload

    base = read_report(Path(path), Session)
    checked_workload(base, workload)
    return base


def _comparison(base: Session, session: Session) -> Report:
    from halftime.report.comparison import comparison_of
    from halftime.verbs.profile.compare import checked_alike

    checked_alike(base, session)
    return comparison_of(base, session)


def _measure(
    model: str | None,
    workload: Workload,
    runs: int,
    warmup: int,
    cold_start: bool,
    probes: bool,
    trace_folder: str | None,
    quiet: bool,
    recipe: str | None,
    artefacts: str | None,
    surroundings: Surroundings,
) -> Session:
    with progress_bar(quiet) as progress:
        progress("importing torch and diffusers", 0, 1)
        from halftime.fix.apply import starts_on_host
        from halftime.pipeline.arguments import call_arguments
        from halftime.pipeline.load import load
        from halftime.verbs.profile import coldstart
        from halftime.verbs.profile.call import quiet_progress_bars
        from halftime.verbs.profile.run import ProfileSettings, measure
        from halftime.verbs.profile.traced import trace_call

        settings = ProfileSettings(runs, warmup, probes)
        progress("loading", 0, 1)
        loaded = load(model, workload, on_host=starts_on_host(recipe))
        call_arguments(loaded.pipeline, workload)  # refuse a bad workload before any long work
        progress("cold start in a fresh process", 0, 1)
        cold = coldstart.measure(model, workload) if cold_start else None
        with quiet_progress_bars(loaded.pipeline), _fixed(loaded, recipe, artefacts):
            session = measure(
                loaded,
                workload,
                settings,
                cold_start=cold,
                surroundings=surroundings,
                progress=progress,
            )
            if trace_folder:
                progress("traced run", 0, 1)
                try:
                    trace = trace_call(loaded.pipeline, workload, Path(trace_folder))
                except BadFile as error:  # the session is there all the same
                    journal().problems.append(str(error))
                else:
                    progress.say(f"wrote {trace} (open it in Perfetto, or with halftime trace)")
    if recipe is None:
        return session
    from halftime.fix.apply import open_findings, read_plan

    return open_findings(session, read_plan(Path(recipe)))


def _fixed(
    loaded: LoadedPipeline, recipe: str | None, artefacts: str | None
) -> AbstractContextManager[object]:
    """The fixes of a recipe, if there is one."""
    if recipe is None:
        return nullcontext()
    from halftime.fix import applied

    return applied(loaded.pipeline, Path(recipe), artefacts, probe=False)
