"""Where results go: files first, then the console, and nothing beside JSON when that has standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from halftime.records import Record
from halftime.report.model import Report
from halftime.store import write_bytes, write_json

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, of how much."""


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on standard error, gone when done; a dumb terminal or a file gets nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield show


def emit(
    record: Record,
    report_of: Callable[[], Report],
    *,
    json_file: str | None = None,
    html_file: str | None = None,
    markdown_file: str | None = None,
    quiet: bool = False,
) -> None:
    """Write what was asked for; the report is drawn only where something needs it."""
    if json_file:
        write_json(json_file, record)
    data_on_stdout = "-" in (json_file, html_file, markdown_file)
    show = not quiet and not data_on_stdout
    if not (show or html_file or markdown_file):
        return
    report = report_of()
    if html_file:
        from halftime.report.page import html

        write_bytes(html_file, html(report, record).encode())
    if markdown_file:
        from halftime.report.markdown import markdown

        write_bytes(markdown_file, markdown(report).encode())
    if show:
        from halftime.report.console import print_report

        print_report(report)
        for file in (html_file, markdown_file, json_file):
            if file:
                click.echo(f"wrote {file}")
