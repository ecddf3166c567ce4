"""`halftime trace`: parse, read, render."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from halftime.cli.options import output_options
from halftime.cli.output import Output, emit


@click.command()
@click.argument("file")
@click.argument("candidate", metavar="[OTHER]", required=False)
@click.option(
    "--perfetto",
    metavar="OUT",
    help="Write the trace with stages, idle gaps and findings, for Perfetto.",
)
@output_options
def command(
    file: str,
    candidate: str | None,
    perfetto: str | None,
    output: Output,
) -> None:
    """The same, from a torch.profiler trace recorded elsewhere.

    FILE is a Chrome trace as export_chrome_trace() writes it, plain or gzipped. With OTHER, a trace
    of the same workload, the two are compared stage by stage: FILE is the baseline.
    """
    from halftime.report.comparison import comparison_of
    from halftime.verbs.trace.perfetto import annotate
    from halftime.verbs.trace.run import explain

    baseline = explain(Path(file)) if candidate else None
    explained = explain(Path(candidate or file))
    if perfetto:
        annotate(Path(candidate or file), explained, Path(perfetto))
    comparison = partial(comparison_of, baseline.session, explained.session) if baseline else None
    emit(explained.session, output, comparison)
