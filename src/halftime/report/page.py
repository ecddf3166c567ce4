"""A Report as one HTML page: no network, light and dark, readable on a phone and in print."""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2
import msgspec

from halftime.records import Record
from halftime.report.model import Block, Bullets, Entries, Html, Report, Table, Text

_KINDS = {Table: "table", Text: "text", Bullets: "bullets", Entries: "entries", Html: "html"}


def html(report: Report, record: Record | None = None) -> str:
    """The page as text; `record`, what it was drawn from, is embedded, so that the page can be read
    back."""
    data = embedded(record) if record is not None else None
    return _template().render(report=report, css=asset("page.css"), kind=_kind, data=data)


def embedded(record: Record) -> str:
    """The record's JSON as it may stand in a script element: no `<`, so nothing can end it or open
    a comment."""
    return msgspec.json.encode(record).decode().replace("<", "\\u003c")


def _kind(block: Block) -> str:
    return _KINDS[type(block)]


def asset(name: str) -> str:
    """The text of a file in report/assets."""
    return resources.files("halftime.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(asset("page.html"))
