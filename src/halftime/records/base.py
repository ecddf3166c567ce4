"""The base of every record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from halftime.base import store

# What an argument in a TOML or JSON file can hold.
Scalar = None | bool | int | float | str
Json = Scalar | list[Scalar] | dict[str, Scalar]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict: an unknown field in a file is an error, not silence."""

    def save(self, path: Path | str) -> None:
        """Write the record: as TOML where the name ends in .toml, else as JSON. Raises BadFile.

        `halftime.base.store` reads it back; so do `halftime.show` and the options that name a file.
        """
        if Path(path).suffix == ".toml":
            store.write_toml(path, self)
        else:
            store.write_json(path, self)

    def html(self, path: Path | str) -> None:
        """Write the record's report as one self-contained page, with the record in it.

        Raises BadInput for a type that has no report, BadFile where `path` cannot be written.
        """
        # Records know nothing of reports, and importing records must not import jinja2.
        from halftime.report.page import write_page

        write_page(path, self)


def lines_hash(lines: Iterable[str]) -> str:
    """First 16 hex digits of SHA-256 over the texts, one a line."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def content_hash(value: object) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON: equal for equal content."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
