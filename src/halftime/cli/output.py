"""Where results go: the console first, unless a file has standard output, then the files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import click

from halftime.base.errors import HalftimeError, NotWritten, ReaderLeft
from halftime.base.store import STANDARD_OUTPUT, reason, write_bytes, write_json
from halftime.cli.ending import Journal, journal, output_failure
from halftime.records import Record
from halftime.report.console import print_report
from halftime.report.model import Report
from halftime.report.registry import report_of


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


class ExtraFile(NamedTuple):
    """A file of one verb beside those of `Output`: its name, and what writes it."""

    name: str
    write: Callable[[], object]


def emit(
    record: Record,
    output: Output,
    draw: Callable[[], Report] | None = None,
    extra: Sequence[ExtraFile] = (),
) -> None:
    """Print the report, then write the files: what cannot be written loses no measurement.

    `draw` makes the report where it shows more than the record holds, or another view of it.
    Raises NotWritten, after everything else is written, with each reason and the place where the
    record was kept instead.
    """
    notes = journal()
    show = not output.quiet and STANDARD_OUTPUT not in output.files
    report = None
    if show or output.html_file or output.markdown_file:
        report = _drawn(record, draw, notes)
    if show and report is not None:
        print_report(report)
    for name, write in (*_files(record, output, report), *extra):
        _write(name, write, notes)
    if show:
        for name in output.files:
            if name in notes.written:
                click.echo(f"wrote {name}")
    if not output.quiet:
        for name, _ in extra:
            if name in notes.written:
                click.echo(f"wrote {name}", err=True)
    if failure := output_failure():
        notes.problems.append(failure)
    if notes.problems:
        where = "" if output.json_file in notes.written else rescued(record, show)
        raise NotWritten(" ".join(notes.problems) + where)


def _drawn(record: Record, draw: Callable[[], Report] | None, notes: Journal) -> Report:
    """The report; where its own view fails, the record's plain one, and why."""
    if draw is None:
        return report_of(record)
    try:
        return draw()
    except HalftimeError as error:
        notes.problems.append(str(error))
        return report_of(record)


def _files(record: Record, output: Output, report: Report | None) -> Iterator[ExtraFile]:
    if output.json_file:
        yield ExtraFile(output.json_file, partial(write_json, output.json_file, record))
    if output.html_file and report is not None:
        yield ExtraFile(output.html_file, partial(_write_page, output.html_file, report, record))
    if output.markdown_file and report is not None:
        yield ExtraFile(
            output.markdown_file, partial(_write_markdown, output.markdown_file, report)
        )


def _write_page(path: str, report: Report, record: Record) -> None:
    from halftime.report.page import html

    write_bytes(path, html(report, record).encode())


def _write_markdown(path: str, report: Report) -> None:
    from halftime.report.markdown import markdown

    write_bytes(path, markdown(report).encode())


def _write(name: str, write: Callable[[], object], notes: Journal) -> None:
    try:
        write()
    except ReaderLeft:
        raise  # nobody wants the rest
    except HalftimeError as error:
        notes.problems.append(str(error))
    except OSError as error:
        notes.problems.append(f"cannot write {name}: {reason(error)}.")
    else:
        notes.written.append(name)


def rescued(record: Record, shown_already: bool) -> str:
    """Keep a record that has no file yet in a folder for such things; a sentence that names it."""
    with contextlib.suppress(HalftimeError, OSError):
        handle, name = tempfile.mkstemp(prefix="halftime-", suffix=".json")
        os.close(handle)
        try:
            write_json(name, record)
        except BaseException:
            os.unlink(name)
            raise
        return f" The result is kept in {name}: halftime show {name}"
    if not shown_already:
        print_report(report_of(record))
    return " No folder for temporary files takes the result either; it is printed above alone."
