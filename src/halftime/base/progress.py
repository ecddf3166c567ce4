"""How far a long call is: the one shape of a progress callback, how much is left, and a bar in a
notebook."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from markupsafe import Markup

# The task, how much of it is finished, and of how much.
Progress = Callable[[str, int, int], None]


def silent(task: str, finished: int, total: int) -> None:
    """A Progress that says nothing."""


class Pace:
    """What is running, for how long, and about how much of it is left.

    The parts of a series (the calls of a profile, the pictures of a set) are alike: the last three
    say how long the others will take. `at_most` is the budget of the whole, where there is one.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, at_most: float | None = None
    ) -> None:
        self._clock, self._begun = clock, clock()
        self._at_most = at_most
        self.task, self.finished, self.total = "starting", 0, 1
        self._last = self._begun  # when the last part was finished
        self._parts: deque[float] = deque(maxlen=3)  # seconds of the last parts

    def __call__(self, task: str, finished: int, total: int) -> None:
        """As a Progress."""
        now = self._clock()
        advanced = finished - self.finished
        if total == self.total and advanced > 0:
            self._parts.extend([(now - self._last) / advanced])
        elif total != self.total or advanced < 0:
            self._parts.clear()
        if (task, finished, total) != (self.task, self.finished, self.total):
            self._last = now
        self.task, self.finished, self.total = task, finished, total

    def left(self) -> float | None:
        """Seconds that the series will take; None where nothing of it is finished yet."""
        if not self._parts:
            return None
        since = self._clock() - self._last
        # a part that takes longer than those before says that the others may, too
        part = max(since, sum(self._parts) / len(self._parts))
        return max(0.0, (self.total - self.finished) * part - since)

    def left_words(self) -> str:
        """'about 12 s left', 'at most 3 min left' or ''."""
        if self._at_most is not None:
            spent = self._clock() - self._begun
            return f"at most {roughly(max(0.0, self._at_most - spent))} left"
        left = self.left()
        return "" if left is None else f"about {roughly(left)} left"

    def line(self) -> str:
        """'steady run, 3 of 7: 12 s so far, about 16 s left'."""
        count = f", {min(self.finished + 1, self.total)} of {self.total}" if self.total > 1 else ""
        words = [f"{roughly(self._clock() - self._begun)} so far", self.left_words()]
        return f"{self.task}{count}: {', '.join(filter(None, words))}"


def roughly(seconds: float) -> str:
    """Seconds as somebody waiting wants them: '12 s', '3 min', '1 h 5 min'."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
