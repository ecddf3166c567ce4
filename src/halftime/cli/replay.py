"""`halftime replay`: read a report, run its workload here, explain."""

from __future__ import annotations

import click

from halftime.cli.around import look_around
from halftime.cli.options import output_options, source_options
from halftime.cli.output import Output, emit
from halftime.cli.screen import progress_bar


@click.command()
@click.argument("report", metavar="REPORT")
@click.option("--model", help="Where the model is here.  [default: as in the report]")
@click.option("--device", help="Run on another device.  [default: as in the report]")
@click.option("--runs", type=int, help="Steady runs.  [default: as many as then]")
@click.option(
    "--warmup",
    default=1,
    show_default=True,
    help="Calls between the first and the first steady one.",
)
@source_options
@output_options
def command(
    report: str,
    model: str | None,
    device: str | None,
    runs: int | None,
    warmup: int,
    output: Output,
    **source: object,
) -> None:
    """Run a report's workload again, on this machine, and explain the difference.

    REPORT is the HTML page or the JSON that `halftime profile` wrote, here or elsewhere. How the
    model was loaded then is what it says; options name what lies elsewhere here.
    """
    look_around(output.quiet)
    with progress_bar(output.quiet) as progress:
        progress("importing torch and diffusers", 0, 1)
        from halftime.verbs.profile.run import ProfileSettings
        from halftime.verbs.replay.run import read, replay

    session = read(report)
    settings = ProfileSettings(len(session.runs) or 1 if runs is None else runs, warmup)
    with progress_bar(output.quiet) as progress:
        result = replay(
            session,
            model=model,
            device=device,
            source={name: value for name, value in source.items() if value},
            settings=settings,
            progress=progress,
        )
    emit(result, output)
