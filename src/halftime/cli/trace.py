"""`halftime trace`: parse, read, render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.cli.options import output_options
from halftime.cli.output import emit

if TYPE_CHECKING:
    from halftime.report.model import Report


@click.command()
@click.argument("file")
@click.argument("other", required=False)
@click.option("--perfetto", metavar="OUT", help="Write the trace with stages, idle gaps and findings, for Perfetto.")
@output_options
def command(
    file: str,
    other: str | None,
    perfetto: str | None,
    json_file: str | None,
    html_file: str | None,
    markdown_file: str | None,
    quiet: bool,
) -> None:
    """The same, from a torch.profiler trace recorded elsewhere.

    FILE is a Chrome trace as export_chrome_trace() writes it, plain or gzipped. With OTHER, a trace of the same
    workload, the two are compared stage by stage: FILE is the baseline.
    """
    from halftime.trace.run import explain

    first = explain(Path(file))
    second = explain(Path(other)) if other else None
    shown = second or first
    if perfetto:
        from halftime.trace.perfetto import annotate

        annotate(Path(other or file), shown, Path(perfetto))

    def report() -> Report:
        from halftime.report.comparison import comparison_of
        from halftime.report.trace import report_of

        return comparison_of(first.session, second.session) if second else report_of(first.session)

    emit(shown.session, report, json_file=json_file, html_file=html_file, markdown_file=markdown_file, quiet=quiet)
