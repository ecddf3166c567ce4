"""Calls as stacked bars on one scale: a part for each stage, as long as the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from halftime.base import units
from halftime.records import LedgerRow
from halftime.records.stages import COLOURS
from halftime.report.model import Html
from halftime.report.templates import render

WIDTH = 1000.0  # of the longest call, in the drawing's units
OTHER = 6  # the colour of what the table of stages does not name


class BarPart(NamedTuple):
    """One stage of one call, in the drawing's units."""

    start: float
    width: float
    series: int
    label: str


class StackedBar(NamedTuple):
    """One call."""

    name: str
    total: str
    label: str
    parts: tuple[BarPart, ...]


def colour_of(stage: str) -> int:
    """The stage's series of the page's palette."""
    return COLOURS.get(stage, OTHER)


def stacked_bars(calls: Mapping[str, Sequence[LedgerRow]]) -> Html:
    """A bar for each call, by name."""
    totals = {name: sum(_length(row) for row in rows) for name, rows in calls.items()}
    longest = max(totals.values(), default=0.0) or 1.0
    bars = [
        StackedBar(name, units.seconds(totals[name]), _label(name, rows), _parts(rows, longest))
        for name, rows in calls.items()
    ]
    words = "; ".join(f"{bar.name} {bar.total}" for bar in bars)
    return Html(render("stacked.html", bars=bars), fallback=words)


def _length(row: LedgerRow) -> float:
    return max(0.0, row.seconds)  # what is unexplained may be a little less than nothing


def _label(name: str, rows: Sequence[LedgerRow]) -> str:
    stages = ", ".join(f"{row.stage} {units.seconds(row.seconds)}" for row in rows)
    return f"{name}: {stages}"


def _parts(rows: Sequence[LedgerRow], longest: float) -> tuple[BarPart, ...]:
    parts, start = [], 0.0
    for row in rows:
        width = WIDTH * _length(row) / longest
        label = f"{row.stage}: {units.seconds(row.seconds)}"
        parts.append(BarPart(start, width, colour_of(row.stage), label))
        start += width
    return tuple(parts)
