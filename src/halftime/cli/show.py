"""`halftime show`: read any file that a verb wrote, and draw it again."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import click

from halftime.cli.options import output_options
from halftime.cli.output import emit
from halftime.errors import BadFile

if TYPE_CHECKING:
    from halftime.records import Record
    from halftime.report.model import Report

# record -> the function that draws it, both as module:name, so that --help imports neither
DRAWN_BY = {
    "halftime.records:Session": "halftime.report.trace:report_of",
    "halftime.records.audit:Audit": "halftime.report.audit:report_of",
    "halftime.records.benchmark:Benchmark": "halftime.report.benchmark:report_of",
    "halftime.records.captions:CaptionsResult": "halftime.report.captions:report_of",
    "halftime.records.doctor:Doctor": "halftime.report.doctor:report_of",
    "halftime.records.forecast:EvaluationReport": "halftime.report.forecast:evaluation_report_of",
    "halftime.records.forecast:Forecast": "halftime.report.forecast:report_of",
    "halftime.records.gateway:GatewayResult": "halftime.report.gateway:report_of",
    "halftime.records.replay:Replay": "halftime.report.replay:report_of",
    "halftime.records.tune:Tuning": "halftime.report.tune:report_of",
    "halftime.records.verdict:Verdict": "halftime.report.verify:report_of",
}


@click.command()
@click.argument("file", metavar="FILE")
@output_options
def command(file: str, json_file: str | None, html_file: str | None, markdown_file: str | None, quiet: bool) -> None:
    """Draw what a verb wrote, without running it again.

    FILE is the JSON or the HTML page of any verb, or a result under benchmarks/results. Pictures are not in these
    files, so contact sheets and sliders are left out.
    """
    record, report_of = read(file)
    emit(
        record,
        lambda: report_of(record),
        json_file=json_file,
        html_file=html_file,
        markdown_file=markdown_file,
        quiet=quiet,
    )


def read(file: str) -> tuple[Record, Callable[[Record], Report]]:
    """The record in a file, and what draws it. Raises BadFile where it is none of halftime's."""
    from halftime.store import data_of, decoded

    data = data_of(file)
    names = _top_level(file, data)
    fitting = [(kind, drawn_by) for kind, drawn_by in _kinds() if _fits(kind, names)]
    if not fitting:
        known = ", ".join(sorted(kind.__name__ for kind, _ in _kinds()))
        raise BadFile(f"{file} holds nothing that halftime draws. Files of these do: {known}.")
    kind, drawn_by = max(fitting, key=lambda pair: len(names & set(pair[0].__struct_fields__)))
    return decoded(file, data, kind), cast("Callable[[Record], Report]", _named(drawn_by))


def _top_level(file: str, data: bytes) -> set[str]:
    import msgspec

    try:
        return set(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError as error:
        raise BadFile(f"{file} is not a JSON object: {error}.") from error


def _kinds() -> Iterator[tuple[type[Record], str]]:
    for kind, drawn_by in DRAWN_BY.items():
        yield cast("type[Record]", _named(kind)), drawn_by


def _named(path: str) -> object:
    module, _, name = path.partition(":")
    found: object = getattr(importlib.import_module(module), name)
    return found


def _fits(kind: type[Record], names: set[str]) -> bool:
    """All fields that must be there are."""
    import msgspec

    return {field.name for field in msgspec.structs.fields(kind) if field.required} <= names
