"""`show`: draw a record, or any file that a verb wrote, on the terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import data_of, decoded
from halftime.records import Record
from halftime.report.console import print_report
from halftime.report.drawn import drawn, kinds


def show(what: Record | Path | str) -> None:
    """Print the report of a record (a Session, an Audit, a Verdict, …), or of the JSON or page that
    a verb wrote.

    Raises BadFile where the file is none of halftime's, KeyError for a record that none draws.
    """
    print_report(drawn(what if isinstance(what, Record) else read(what)))


def read(file: Path | str) -> Record:
    """The record in a file of any verb, known by its fields. Raises BadFile where it is none of
    halftime's."""
    data = data_of(file)
    names = _top_level(file, data)
    fitting = [kind for kind in kinds() if _fits(kind, names)]
    if not fitting:
        known = ", ".join(sorted(kind.__name__ for kind in kinds()))
        raise BadFile(f"{file} holds nothing that halftime draws. Files of these do: {known}.")
    return decoded(
        file, data, max(fitting, key=lambda kind: len(names & set(kind.__struct_fields__)))
    )


def _top_level(file: Path | str, data: bytes) -> set[str]:
    try:
        return set(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError as error:
        raise BadFile(
            f"{file} is no JSON and no page of halftime's. Name what --json or --html wrote."
        ) from error


def _fits(kind: type[Record], names: set[str]) -> bool:
    """All fields that must be there are."""
    return {field.name for field in msgspec.structs.fields(kind) if field.required} <= names
