"""`halftime replay`: read a report, run its workload here, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from halftime.cli.options import output_options
from halftime.cli.output import emit, progress_bar

if TYPE_CHECKING:
    from halftime.records.replay import Replay
    from halftime.report.model import Report


@click.command()
@click.argument("report", metavar="REPORT")
@click.option("--model", help="Where the model is here.  [default: as in the report]")
@click.option("--device", help="Run on another device.  [default: as in the report]")
@click.option("--runs", type=int, help="Steady runs.  [default: as many as then]")
@click.option("--warmup", default=1, show_default=True, help="Calls between the first and the first steady one.")
@output_options
def command(
    report: str,
    model: str | None,
    device: str | None,
    runs: int | None,
    warmup: int,
    json_file: str | None,
    html_file: str | None,
    markdown_file: str | None,
    quiet: bool,
) -> None:
    """Run a report's workload again, on this machine, and explain the difference.

    REPORT is the HTML page or the JSON that `halftime profile` wrote, here or elsewhere.
    """
    found = _replay(report, model, device, runs, warmup, quiet)

    def drawn() -> Report:
        from halftime.report.replay import report_of

        return report_of(found)

    emit(found, drawn, json_file=json_file, html_file=html_file, markdown_file=markdown_file, quiet=quiet)


def _replay(report: str, model: str | None, device: str | None, runs: int | None, warmup: int, quiet: bool) -> Replay:
    from halftime.profile.run import Settings
    from halftime.replay import read, replay

    session = read(report)
    settings = Settings(len(session.runs) or 1 if runs is None else runs, warmup)
    with progress_bar(quiet) as progress:
        return replay(session, model=model, device=device, settings=settings, progress=progress)
