"""What is seen while a command works: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from halftime.base.progress import Pace
from halftime.report.model import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn, Task

BEAT = 10.0  # seconds between two lines where there is no terminal
REFRESHES = 2  # of the bar in a second: each takes a little of the time that is measured


class Screen:
    """A Progress that also takes sentences, which stand above the bar where there is one."""

    def __init__(self, pace: Pace, say: Callable[[str], None], bar: Bar | None = None) -> None:
        self._pace, self._say, self._bar = pace, say, bar

    def __call__(self, task: str, finished: int, total: int) -> None:
        """As a Progress."""
        self._pace(task, finished, total)
        if self._bar is not None:
            # without parts it moves to and fro
            known_total = total if total > 1 else None
            self._bar.update(
                self._bar.task_ids[0], description=task, completed=finished, total=known_total
            )

    def say(self, words: str) -> None:
        """A sentence that stays."""
        self._say(words)


@contextmanager
def progress_bar(quiet: bool, at_most: float | None = None) -> Iterator[Screen]:
    """A bar on standard error, gone when it is finished; a line every ten seconds where that is no
    terminal; nothing with --quiet. `at_most` is how many seconds everything may take."""
    from rich.console import Console

    pace = Pace(at_most=at_most)
    console = Console(stderr=True)
    if quiet:
        yield Screen(pace, lambda words: None)
    elif console.is_terminal and not console.is_dumb_terminal:
        with _bar(pace, console) as bar:
            yield Screen(pace, lambda words: _print_above(bar, words), bar)
    else:
        with _heartbeat(pace):
            yield Screen(pace, lambda words: click.echo(words, err=True))


def _print_above(bar: Bar, words: str) -> None:
    bar.console.print(printable(words), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(pace: Pace, console: Console) -> Iterator[Bar]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _count_column(),
        TimeElapsedColumn(),
        _left_column(pace),
    )
    with Bar(*columns, console=console, transient=True, refresh_per_second=REFRESHES) as bar:
        bar.add_task(pace.task, total=None)
        yield bar


def _count_column() -> ProgressColumn:
    """'3/7', and nothing for what has no parts."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")

    return Count()


def _left_column(pace: Pace) -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(pace.left_words(), "dim")

    return Left()


@contextmanager
def _heartbeat(pace: Pace) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=beat, args=(pace, ended.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def beat(pace: Pace, wait: Callable[[float], bool]) -> None:
    """A line on standard error every BEAT seconds, until `wait` says that the work has ended."""
    while not wait(BEAT):
        click.echo(pace.line(), err=True)
