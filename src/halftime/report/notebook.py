"""The notebook front: records draw themselves in Jupyter.

`import halftime` in a notebook is enough. IPython learns by name how to draw each type of record,
and nothing more of halftime is imported until one is displayed.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from halftime.base.progress import ipython_shell
from halftime.report.registry import REPORT_FUNCTIONS, report_of

if TYPE_CHECKING:
    from halftime.report.model import Block, Report, Section

_numbers = itertools.count(1)  # a cell may draw one record twice
MOST_SCRIPT = 100_000  # bytes: a notebook keeps every output, so d3's timeline stays with the pages


def register() -> bool:
    """Teach the running IPython to draw our records, on `import halftime`; False without one."""
    shell = ipython_shell()
    if shell is None:
        return False
    formatter = shell.display_formatter.formatters["text/html"]  # type: ignore[attr-defined]
    for record_type in REPORT_FUNCTIONS:
        formatter.for_type_by_name(*record_type.split(":"), page_in_a_frame)
    return True


def page_in_a_frame(record: object) -> str:
    """A record's report in a sandboxed iframe, apart from the notebook's style and scripts."""
    # Here, since `import halftime` imports this module and must stay light.
    from halftime.report.model import Html
    from halftime.report.page import html
    from halftime.report.templates import asset, render

    report = report_of(record)
    if sum(len(asset(script)) for script in report.scripts) > MOST_SCRIPT:
        sections = tuple(
            section
            for section in report.sections
            if not any(isinstance(b, Html) and "timeline" in b.markup for b in section.blocks)
        )
        report = replace(report, sections=sections, scripts=())
    page = html(report)
    return render(
        "notebook.html",
        page=page,
        title=type(record).__name__,
        height=estimated_height(report),
        name=f"halftime-{next(_numbers)}-{hashlib.sha256(page.encode()).hexdigest()[:8]}",
    )


def estimated_height(report: Report) -> int:
    """Pixels of the page, for a notebook that runs no scripts; where it does, the page tells."""
    return round(sum(map(_section_height, report.sections), 150.0))


def _section_height(section: Section) -> float:
    if section.folded:
        return 50.0
    return 75.0 + sum(map(_block_height, section.blocks))


def _block_height(block: Block) -> float:
    from halftime.report.model import Bullets, Entries, Html, Table, Text

    if isinstance(block, Table):
        return 45.0 + 34.0 * len(block.rows)
    if isinstance(block, Text):
        return 16.0 + _text_height(block.text)
    if isinstance(block, Bullets):
        return 32.0 + sum(10.0 + _text_height(item.text) for item in block.items)
    if isinstance(block, Entries):
        return sum(
            42.0
            + _text_height(item.text)
            + (25.0 + 22.0 * item.command.count("\n") + 22.0 if item.command else 0.0)
            for item in block.items
        )
    return 340.0 if isinstance(block, Html) else 0.0


def _text_height(text: str) -> float:
    return 25.0 * (1 + len(text) // 95)
