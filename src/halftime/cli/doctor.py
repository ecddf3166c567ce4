"""`halftime doctor`: look, render; exit with 1 where something that halftime needs is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from halftime.cli.options import output_options
from halftime.cli.output import emit

if TYPE_CHECKING:
    from halftime.report.model import Report


@click.command()
@output_options
def command(json_file: str | None, html_file: str | None, markdown_file: str | None, quiet: bool) -> int:
    """What is installed, which extras and devices can be used, and what would be faster?

    Exit code: 0 where everything that `pip install halftime` needs is there, 1 where not.
    """
    from halftime.doctor import examine

    found = examine()

    def report() -> Report:
        from halftime.report.doctor import report_of

        return report_of(found)

    emit(found, report, json_file=json_file, html_file=html_file, markdown_file=markdown_file, quiet=quiet)
    return 0 if found.healthy else 1
