"""The verdicts of the past as a chart and a sentence: times, ratios, what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.records.gate import PastGate
from halftime.report.charts import FAINT, INK, PAPER, SERIES, figure, svg
from halftime.report.model import Block, Column, Html, Section, Table, Text, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# verdict -> marker, and whether it is filled: shapes, since not everybody sees colours
_MARKERS = {
    "pass": ("o", True),
    "faster": ("v", True),
    "accepted": ("D", False),
    "slower": ("^", True),
    "worse": ("X", True),
    "undecided": ("o", False),
}
_MOST_LABELS = 12
_MOST_ROWS = 10  # of the table
_MOST_LETTERS = 90  # of a reason in it

Panel = Callable[["Axes", Sequence[PastGate]], None]


def history_section(history: Sequence[PastGate]) -> Section:
    """What the file knows of the same question; nothing where this verdict is the first."""
    return Section("History", tuple(_blocks(history)) if len(history) > 1 else ())


def _blocks(history: Sequence[PastGate]) -> Iterator[Block]:
    panels = list(_panels(history))
    sentence = _sentence(history)
    if panels:
        with figure(7.2, 0.6 + 1.7 * len(panels)) as chart:
            axes = chart.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
            for row, panel in zip(axes, panels, strict=True):
                panel(row, history)
                row.margins(x=0.03)
                row.grid(axis="y")
            _name_verdicts(axes[-1], history)
            picture = svg(chart, f"History. {sentence}")
        yield Html(picture, fallback=sentence, caption=sentence)
    else:
        yield Text(sentence)
    yield _table(history)


def _sentence(history: Sequence[PastGate]) -> str:
    """'7 verdicts since 2026-11-02: 6 pass, 1 slower; … 200 ms a call then, 231 ms now.'"""
    words = Counter(past.verdict for past in history)
    verdicts = ", ".join(f"{count} {word}" for word, count in words.most_common())
    since = f"{len(history)} verdicts since {history[0].created[:10]}: {verdicts}"
    timed = [p for p in history if p.seconds is not None and p.machine == history[-1].machine]
    if len(timed) < 2:
        return f"{since}."
    then, now = units.seconds(timed[0].seconds), units.seconds(timed[-1].seconds)
    return f"{since}; on this machine {then} a call then, {now} now."


def _panels(history: Sequence[PastGate]) -> Iterator[Panel]:
    if any(past.seconds is not None for past in history):
        yield _seconds
        yield _ratios
    if _changing(history, by_shapes=True):
        yield _counted
    if _changing(history, by_shapes=False):
        yield _numbers


def _seconds(axes: Axes, history: Sequence[PastGate]) -> None:
    machines = list(dict.fromkeys(past.machine for past in history if past.seconds is not None))
    for number, machine in enumerate(machines):
        rows = [(i, p.seconds) for i, p in enumerate(history) if p.machine == machine and p.seconds]
        xs, ys = [i for i, _ in rows], [1000 * seconds for _, seconds in rows]
        colour = SERIES[number % len(SERIES)]
        axes.plot(xs, ys, color=colour, marker=".", linewidth=1.2, label=machine)
    axes.set_ylim(0, 1100 * max(past.seconds or 0.0 for past in history))
    axes.set_ylabel("ms a call")
    if len(machines) > 1:
        axes.legend(fontsize=7, loc="lower left")


def _ratios(axes: Axes, history: Sequence[PastGate]) -> None:
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(100 * history[-1].margin, color=FAINT, linewidth=1, linestyle="--")
    for index, past in enumerate(history):
        if past.ratio is None:
            continue
        if past.low is not None and past.high is not None:
            bounds = [100 * (past.low - 1), 100 * (past.high - 1)]
            axes.plot([index, index], bounds, color=SERIES[0], linewidth=1.2)
        _mark(axes, index, 100 * (past.ratio - 1), past.verdict)
    axes.set_ylabel("% slower than base")
    _legend(axes, history)


def _mark(axes: Axes, x: float, y: float, verdict: str) -> None:
    shape, filled = _MARKERS[verdict]
    fill = SERIES[0] if filled else PAPER
    axes.plot([x], [y], marker=shape, color=SERIES[0], markerfacecolor=fill, markersize=5)


def _legend(axes: Axes, history: Sequence[PastGate]) -> None:
    for verdict in dict.fromkeys(past.verdict for past in history):
        shape, filled = _MARKERS[verdict]
        fill = SERIES[0] if filled else PAPER
        axes.plot(
            [],
            [],
            marker=shape,
            linestyle="",
            label=verdict,
            color=SERIES[0],
            markerfacecolor=fill,
            markersize=5,
        )
    axes.legend(fontsize=7, loc="upper left", ncols=3)


def _counted(axes: Axes, history: Sequence[PastGate]) -> None:
    for number, name in enumerate(_changing(history, by_shapes=True)):
        rows = [(i, p.counts[name]) for i, p in enumerate(history) if name in p.counts]
        first = rows[0][1]
        xs, ys = [i for i, _ in rows], [value / first for _, value in rows]
        colour = SERIES[number % len(SERIES)]
        axes.plot(xs, ys, color=colour, marker=".", drawstyle="steps-post", label=name)
    axes.set_ylabel("times the first")
    axes.legend(fontsize=7, loc="upper left", ncols=2)


def _numbers(axes: Axes, history: Sequence[PastGate]) -> None:
    for number, name in enumerate(_changing(history, by_shapes=False)):
        rows = [(i, p.counts[name]) for i, p in enumerate(history) if name in p.counts]
        colour = SERIES[number % len(SERIES)]
        xs, ys = [i for i, _ in rows], [value for _, value in rows]
        axes.plot(xs, ys, color=colour, marker=".", drawstyle="steps-post", label=name)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", integer=True)
    axes.set_ylabel("counted")
    axes.legend(fontsize=7, loc="upper left", ncols=2)


_BY_SHAPES = ("operations", "FLOPs", "bytes touched", "peak of results")


def _changing(history: Sequence[PastGate], *, by_shapes: bool) -> list[str]:
    """Counters that did not stay the same; those by shapes are drawn as ratios to the first."""
    names = dict.fromkeys(name for past in history for name in past.counts)
    values = {name: [p.counts[name] for p in history if name in p.counts] for name in names}
    return [
        name
        for name, numbers in values.items()
        if (name in _BY_SHAPES) is by_shapes
        and len(set(numbers)) > 1
        and (numbers[0] > 0 or not by_shapes)
    ]


def _name_verdicts(axes: Axes, history: Sequence[PastGate]) -> None:
    """Under the lowest panel: which commit, or which day."""
    step = -(-len(history) // _MOST_LABELS)
    places = list(range(len(history) - 1, -1, -step))
    names = [history[i].commit[:7] or history[i].created[5:10] for i in places]
    axes.set_xticks(places, names, fontsize=7, rotation=30, ha="right")


def _table(history: Sequence[PastGate]) -> Table:
    columns = (
        Column("when"),
        Column("version"),
        Column("verdict"),
        Column("% slower"),
        Column("a call", "seconds"),
        Column("why", wide=True),
    )
    rows = [
        (
            past.created[:10],
            past.commit[:10] or past.candidate,
            past.verdict,
            f"{100 * (past.ratio - 1):+.2g}" if past.ratio is not None else None,
            past.seconds,
            _why(past),
        )
        for past in reversed(history[-_MOST_ROWS:])
    ]
    return Table(columns, rows_of(*rows))


def _why(past: PastGate) -> str:
    """Why it was no plain pass, in a line."""
    if past.verdict in ("pass", "faster"):
        return ""
    text = "; ".join(past.accepted) or past.reason
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1].rstrip()}…"
