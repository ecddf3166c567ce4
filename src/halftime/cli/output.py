"""Where results go: files first, then the console, unless a file has standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

from halftime.base.progress import Progress
from halftime.base.store import write_bytes, write_json
from halftime.records import Record
from halftime.report.model import Report
from halftime.report.registry import report_of


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on standard error, gone when done; a dumb terminal or a file gets nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1)

        def show(activity: str, completed: int, total: int) -> None:
            bar.update(task, description=activity, completed=completed, total=total)

        yield show


class Output(NamedTuple):
    """Where a result goes: files, '-' for standard output; and whether the console shows it."""

    json_file: str | None = None
    html_file: str | None = None
    markdown_file: str | None = None
    quiet: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Those that are named."""
        return tuple(file for file in (self.html_file, self.markdown_file, self.json_file) if file)


def emit(record: Record, output: Output, draw: Callable[[], Report] | None = None) -> None:
    """Write the files and print the report, which is drawn only where something needs it.

    `draw` makes it where it shows more than the record holds, or another view of it.
    """
    if output.json_file:
        write_json(output.json_file, record)
    show = not output.quiet and "-" not in output.files
    if not (show or output.html_file or output.markdown_file):
        return
    report = report_of(record) if draw is None else draw()
    if output.html_file:
        from halftime.report.page import html

        write_bytes(output.html_file, html(report, record).encode())
    if output.markdown_file:
        from halftime.report.markdown import markdown

        write_bytes(output.markdown_file, markdown(report).encode())
    if show:
        from halftime.report.console import print_report

        print_report(report)
        for file in output.files:
            click.echo(f"wrote {file}")
