"""The notebook front: records draw themselves in Jupyter, and long calls show where they are.

`import halftime` in a notebook is enough. Records know nothing of reports: IPython is told, by name, how to draw each
type, and nothing of halftime is imported until one is shown.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from halftime.report.drawn import DRAWN_BY, drawn

if TYPE_CHECKING:
    from halftime.report.model import Report

MOST_SCRIPT = 100_000  # bytes: a notebook keeps every output, so d3's timeline stays with the pages

Progress = Callable[[str, int, int], None]


def register() -> bool:
    """Tell the running IPython how to draw our records; False where there is none. Called by `import halftime`."""
    shell = _shell()
    if shell is None:
        return False
    formatter = shell.display_formatter.formatters["text/html"]  # type: ignore[attr-defined]
    for kind in DRAWN_BY:
        formatter.for_type_by_name(*kind.split(":"), page_in_a_frame)
    return True


def page_in_a_frame(record: object) -> str:
    """A record's report in an iframe of its own, so that its style and the notebook's do not meet."""
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
    kept = tuple(s for s in report.sections if not any(isinstance(block, Html) for block in s.blocks))
    return replace(report, sections=kept, scripts=())


def _shell() -> object | None:
    """The running IPython, or None; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def in_a_notebook() -> bool:
    """Whether outputs are drawn by Jupyter, rather than by a terminal."""
    return type(_shell()).__name__ == "ZMQInteractiveShell"


@contextmanager
def progress() -> Iterator[Progress]:
    """In a notebook a bar under the cell, gone when done; elsewhere nothing."""
    if not in_a_notebook():
        yield lambda what, done, total: None
        return
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)  # type: ignore[no-untyped-call]

    def show(what: str, done: int, total: int) -> None:
        bar = f'<progress max="{max(total, 1)}" value="{done}"></progress>'
        handle.update(HTML(f"{bar} {html.escape(what)} ({done} of {total})"))  # type: ignore[no-untyped-call]

    try:
        yield show
    finally:
        handle.update(HTML(""))  # type: ignore[no-untyped-call]
