"""Where results go: files first, then the console, and nothing beside JSON when that has standard output."""

from __future__ import annotations

from collections.abc import Callable

import click

from halftime.records import Record
from halftime.report.model import Report
from halftime.store import write_bytes, write_json


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

        write_bytes(html_file, html(report).encode())
    if markdown_file:
        from halftime.report.markdown import markdown

        write_bytes(markdown_file, markdown(report).encode())
    if show:
        from halftime.report.console import print_report

        print_report(report)
        for file in (html_file, markdown_file, json_file):
            if file:
                click.echo(f"wrote {file}")
