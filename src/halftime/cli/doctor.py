"""`halftime doctor`: look, render; exit with 1 where something that halftime needs is missing."""

from __future__ import annotations

import click

from halftime.cli.options import output_options
from halftime.cli.output import Output, emit
from halftime.cli.screen import progress_bar


@click.command()
@output_options
def command(output: Output) -> int:
    """What is installed, which extras and devices can be used, and what would be faster?

    Exit code: 0 where everything that `pip install halftime` needs is there, 1 where not.
    """
    with progress_bar(output.quiet) as progress:
        progress("importing torch", 0, 1)
        from halftime.verbs.doctor.examine import examine

        doctor = examine(progress)
    emit(doctor, output)
    return 0 if doctor.healthy else 1
