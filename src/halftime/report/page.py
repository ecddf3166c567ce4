"""A Report as one HTML page: no network, light and dark, readable on a phone and in print."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import msgspec
from markupsafe import Markup

from halftime.base.store import write_bytes
from halftime.records import Record
from halftime.report.model import Bullets, Entries, Html, Report, Table, Text, is_nothing
from halftime.report.registry import report_of
from halftime.report.templates import asset, render

_BLOCK_NAMES = {Table: "table", Text: "text", Bullets: "bullets", Entries: "entries", Html: "html"}


def html(report: Report, record: Record | None = None) -> str:
    """The page as text, with the record it was drawn from in it, so that it can be read back."""
    # Only text of our own files is taken as markup here, beside the blocks' ready markup.
    style = Markup(asset("page.css"))
    scripts = [Markup(asset(name)) for name in (*report.scripts, "page.js")]
    page = render(
        "page.html",
        report=report,
        block_name=lambda block: _BLOCK_NAMES[type(block)],
        is_nothing=is_nothing,
        policy=_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=_script_safe_json(record) if record is not None else None,
    )
    return str(page)


def write_page(path: Path | str, record: Record) -> None:
    """Write a record's page. Raises BadInput for a type that has no report, or BadFile."""
    write_bytes(path, html(report_of(record), record).encode())


def _policy(style: str, scripts: list[Markup]) -> str:
    """The content security policy: our style and scripts by their hashes, pictures as data URLs.

    No attribute of an element may hold a style or a script, and nothing comes from the network.
    """
    sources = {
        "default-src": ["'none'"],
        "img-src": ["data:"],
        "style-src": [_hash(style)],
        "script-src": [_hash(script) for script in scripts] or ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return "; ".join(f"{directive} {' '.join(values)}" for directive, values in sources.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _script_safe_json(record: Record) -> Markup:
    """The record's JSON for a script element: without `<`, nothing can end it or open a comment."""
    return Markup(msgspec.json.encode(record).decode().replace("<", "\\u003c"))
