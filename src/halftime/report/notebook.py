"""The notebook front: records draw themselves in Jupyter, and long calls show where they are.

`import halftime` in a notebook is enough. Records know nothing of reports: IPython is told, by
name, how to draw each type, and nothing of halftime is imported until one is shown.
"""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING

from halftime.base.progress import ipython_shell
from halftime.report.drawn import DRAWN_BY, drawn

if TYPE_CHECKING:
    from halftime.report.model import Report

MOST_SCRIPT = 100_000  # bytes: a notebook keeps every output, so d3's timeline stays with the pages


def register() -> bool:
    """Tell the running IPython how to draw our records; False where there is none. Called by
    `import halftime`."""
    shell = ipython_shell()
    if shell is None:
        return False
    formatter = shell.display_formatter.formatters["text/html"]  # type: ignore[attr-defined]
    for kind in DRAWN_BY:
        formatter.for_type_by_name(*kind.split(":"), page_in_a_frame)
    return True


def page_in_a_frame(record: object) -> str:
    """A record's report in an iframe of its own, so that its style and the notebook's do not
    meet."""
    from halftime.report.page import html as page

    text = page(_light(drawn(record)))
    return (
        f'<iframe srcdoc="{html.escape(text, quote=True)}" title="{type(record).__name__}" '
        'style="width: 100%; height: 32rem; border: 0; resize: vertical; overflow: auto"></iframe>'
    )


def _light(report: Report) -> Report:
    from halftime.report.model import Html

    if sum(map(len, report.scripts)) <= MOST_SCRIPT:
        return report
    kept = tuple(
        s for s in report.sections if not any(isinstance(block, Html) for block in s.blocks)
    )
    return replace(report, sections=kept, scripts=())
