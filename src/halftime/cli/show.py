"""`halftime show`: read any file that a verb wrote, and draw it again."""

from __future__ import annotations

import click

from halftime.cli.options import output_options
from halftime.cli.output import Output, emit
from halftime.report.show import read


@click.command()
@click.argument("file", metavar="FILE")
@output_options
def command(file: str, output: Output) -> None:
    """Draw what a verb wrote, without running it again.

    FILE is the JSON or the HTML page of any verb, or a result under benchmarks/results. Pictures
    are not in these files, so contact sheets and sliders are left out.
    """
    emit(read(file), output)
