"""`halftime run`: run a script, profile its first pipeline, render."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout

import click

from halftime.cli.around import look_around
from halftime.cli.options import output_options
from halftime.cli.output import Output, emit
from halftime.cli.screen import progress_bar


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--runs",
    default=3,
    show_default=True,
    help="How often to repeat the script's first call; 0 measures the script's own calls alone.",
)
@output_options
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(script: str, arguments: tuple[str, ...], runs: int, output: Output) -> None:
    """Where does the time go of the first pipeline that a script calls?

    SCRIPT runs as `python SCRIPT ARGUMENTS` would, unchanged. Options of halftime stand before it.
    """
    look_around(output.quiet)
    from halftime.verbs.profile.script import run_script

    # What the script prints must not end up in a result that goes to standard output.
    printed = redirect_stdout(sys.stderr) if "-" in output.files else nullcontext()
    with printed, progress_bar(output.quiet) as progress:
        session = run_script(script, arguments, runs=runs, progress=progress)
    emit(session, output)
