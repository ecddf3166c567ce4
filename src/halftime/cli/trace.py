"""`halftime trace`: parse, read, render."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from halftime.base.store import check_writable
from halftime.cli.options import output_options
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE [OTHER]...")
@click.option(
    "--perfetto",
    metavar="OUT",
    help="Write the trace with stages, idle gaps and findings, for Perfetto.",
)
@click.option(
    "--flame",
    metavar="OUT",
    help="Write idle time by Python stack, folded, for speedscope or flamegraph.pl.",
)
@output_options
def command(
    files: tuple[str, ...],
    perfetto: str | None,
    flame: str | None,
    output: Output,
) -> None:
    """The same, from a torch.profiler trace recorded elsewhere.

    FILE is a Chrome trace as export_chrome_trace() writes it, plain or gzipped, or an SQLite export
    of Nsight Systems. Files of different ranks of one run are read together. With one OTHER file,
    of the same workload, the two are compared stage by stage: FILE is the baseline.
    """
    from halftime.report.comparison import comparison_of
    from halftime.verbs.trace.flame import folded
    from halftime.verbs.trace.perfetto import annotate
    from halftime.verbs.trace.run import explain_files

    extra = []
    for name in (perfetto, flame):
        if name:
            check_writable(name)
    with progress_bar(output.quiet) as progress:
        progress(f"reading {files[0]}" if len(files) == 1 else f"reading {len(files)} files", 0, 1)
        baseline, explained = explain_files([Path(file) for file in files])
    if perfetto:
        write = partial(annotate, explained.path, explained, Path(perfetto))
        extra.append(ExtraFile(perfetto, write))
    if flame:
        extra.append(ExtraFile(flame, partial(folded, explained, Path(flame))))
    comparison = partial(comparison_of, baseline.session, explained.session) if baseline else None
    emit(explained.session, output, comparison, extra)
