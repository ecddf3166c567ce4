"""A Report as one HTML page: no network, light and dark, readable on a phone and in print."""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2

from halftime.report.model import Block, Bullets, Entries, Html, Report, Table, Text

_KINDS = {Table: "table", Text: "text", Bullets: "bullets", Entries: "entries", Html: "html"}


def html(report: Report) -> str:
    """The page as text."""
    return _template().render(report=report, css=asset("page.css"), kind=_kind)


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
