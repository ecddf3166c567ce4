"""`show`: draw a record, or any file that a verb wrote, on the terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import data_of, decoded
from halftime.records import Record
from halftime.report.console import print_report
from halftime.report.registry import record_types, report_of, type_names


def show(record: Record | Path | str) -> None:
    """Print the report of a record (a Session, an Audit, a Verdict, …) or of a verb's file.

    The file is the JSON of --json or the page of --html. Raises BadFile for a file that halftime
    did not write, BadInput for a record that has no report.
    """
    print_report(report_of(record if isinstance(record, Record) else read(record)))


def read(file: Path | str) -> Record:
    """The record in a file of any verb, known by its fields. Raises BadFile for any other file."""
    data = data_of(file)
    try:
        field_names = set(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError as error:
        raise BadFile(
            f"{file} is neither JSON nor a page of halftime's. Name what --json or --html wrote."
        ) from error
    candidates = [kind for kind in record_types() if _required_fields(kind) <= field_names]
    if not candidates:
        raise BadFile(
            f"{file} holds nothing that halftime draws. It draws files of these: "
            f"{', '.join(type_names())}."
        )
    closest = max(candidates, key=lambda kind: len(field_names & set(kind.__struct_fields__)))
    return decoded(file, data, closest)


def _required_fields(kind: type[Record]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind) if field.required}
