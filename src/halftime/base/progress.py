"""How far a long call is: the one shape of a progress callback, and a bar in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from markupsafe import Markup

# The task, how much of it is finished, and of how much.
Progress = Callable[[str, int, int], None]


def silent(task: str, finished: int, total: int) -> None:
    """A Progress that says nothing."""


def ipython_shell() -> object | None:
    """The running IPython, or None; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def in_a_notebook() -> bool:
    """Whether outputs are drawn by Jupyter, rather than by a terminal."""
    return type(ipython_shell()).__name__ == "ZMQInteractiveShell"


@contextmanager
def notebook_bar() -> Iterator[Progress]:
    """In a notebook a bar under the cell, gone at the end; elsewhere nothing."""
    if not in_a_notebook():
        yield silent
        return
    from IPython.display import HTML, display

    bar = Markup('<progress max="{}" value="{}"></progress> {} ({} of {})')  # format() escapes
    handle = display(HTML(""), display_id=True)  # type: ignore[no-untyped-call]

    def show(task: str, finished: int, total: int) -> None:
        markup = bar.format(max(total, 1), finished, task, finished, total)
        handle.update(HTML(markup))  # type: ignore[no-untyped-call]

    try:
        yield show
    finally:
        handle.update(HTML(""))  # type: ignore[no-untyped-call]
