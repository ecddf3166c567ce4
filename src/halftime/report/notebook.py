"""The notebook front: records draw themselves in Jupyter.

`import halftime` in a notebook is enough. IPython learns by name how to draw each type of record,
and nothing more of halftime is imported until one is displayed.
"""

from __future__ import annotations

from dataclasses import replace

from halftime.base.progress import ipython_shell
from halftime.report.registry import REPORT_FUNCTIONS, report_of

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
            if not any(isinstance(block, Html) for block in section.blocks)
        )
        report = replace(report, sections=sections, scripts=())
    return render("notebook.html", page=html(report), title=type(record).__name__)
