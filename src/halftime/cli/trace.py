"""`halftime trace`: parse, read, render."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.cli.options import output_options
from halftime.cli.output import Output, emit

if TYPE_CHECKING:
    from halftime.records import Session
    from halftime.report.model import Report


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
    from halftime.verbs.trace.run import explain

    first = explain(Path(file))
    second = explain(Path(candidate)) if candidate else None
    last = second or first
    if perfetto:
        from halftime.verbs.trace.perfetto import annotate

        annotate(Path(candidate or file), last, Path(perfetto))
    emit(last.session, output, _comparison(first.session, second.session) if second else None)


def _comparison(base: Session, session: Session) -> Callable[[], Report]:
    from halftime.report.comparison import comparison_of

    return lambda: comparison_of(base, session)
