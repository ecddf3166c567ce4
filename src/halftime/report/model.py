"""What a report is made of: plain data that every renderer understands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from halftime.base import units

Cell = float | int | str | None
Tone = Literal["plain", "good", "warning", "bad"]
Script = Literal["d3.min.js", "timeline.js", "slider.js", "page.js"]  # files of report/assets


@dataclass(frozen=True)
class Column:
    """A column: `unit` is 'text' or a key of `units.FORMATS`; narrow terminals skip `wide` ones.

    `bar` False: a share that is no part of a whole, which the page draws without a bar.
    """

    title: str
    unit: str = "text"
    wide: bool = False
    bar: bool = True

    def text(self, cell: Cell) -> str:
        """A cell as a person reads it."""
        if cell is None:
            return units.NOTHING
        return cell if isinstance(cell, str) else units.FORMATS[self.unit](cell)


@dataclass(frozen=True)
class Table:
    """Rows of cells; rows in `emphasis` are bold, those in `indent` are parts of one above."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    emphasis: frozenset[int] = frozenset()
    indent: frozenset[int] = frozenset()
    colours: tuple[int, ...] = ()  # of the rows: series of the page's palette, 0 for none

    def texts(self) -> list[list[str]]:
        """All cells formatted."""
        return [
            [column.text(cell) for column, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def bars(self) -> list[list[float | None]]:
        """For each cell that is a share of a whole, which one, within 0..1; None for the others."""
        return [
            [
                min(1.0, max(0.0, cell))
                if column.unit == "share" and column.bar and isinstance(cell, int | float)
                else None
                for column, cell in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` colours it where colours exist and is a mark where they do not."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of paragraphs."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Entry:
    """A headline, a few facts beside it, a sentence under it, and a command to copy."""

    title: str
    facts: str
    text: str
    tone: Tone = "plain"
    command: str = ""


@dataclass(frozen=True)
class Entries:
    """A list of entries, the most important first."""

    items: tuple[Entry, ...]


@dataclass(frozen=True)
class Html:
    """Markup of a template or of `charts.svg`, for the page; elsewhere `fallback` replaces it."""

    markup: Markup
    fallback: str = ""
    caption: str = ""


Block = Table | Text | Bullets | Entries | Html


@dataclass(frozen=True)
class Section:
    """A heading and its blocks. `console` False keeps it to the page and markdown; `folded` shows
    the heading alone on the page, until a reader opens it."""

    title: str
    blocks: tuple[Block, ...]
    console: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A whole report; `summary` is the one sentence that must be read."""

    title: str
    summary: str
    sections: tuple[Section, ...]
    scripts: tuple[Script, ...] = ()


def rows_of(*rows: Sequence[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """Rows as tuples."""
    return tuple(tuple(row) for row in rows)


_ZERO = re.compile(r"-|-?0(\.0+)?(x| \S+)?")


def is_nothing(text: str) -> bool:
    """Whether a cell's text says zero, or that there is no value."""
    return _ZERO.fullmatch(text) is not None


# Control characters but tab and line feed, and those that turn the direction of writing around.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text without the characters that a terminal obeys instead of printing."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
