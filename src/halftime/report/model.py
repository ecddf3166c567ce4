"""What a report is made of: plain data that every renderer understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from halftime.base import units

Cell = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column: `unit` is 'text' or a key of `units.FORMATS`; `wide` ones are left out on a narrow
    terminal."""

    title: str
    unit: str = "text"
    wide: bool = False

    def text(self, cell: Cell) -> str:
        """A cell as a person reads it."""
        if cell is None:
            return units.NOTHING
        return cell if isinstance(cell, str) else units.FORMATS[self.unit](cell)


@dataclass(frozen=True)
class Table:
    """Rows of cells. `emphasis` names rows to set in bold, `indent` those that are parts of the row
    above."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    emphasis: frozenset[int] = frozenset()
    indent: frozenset[int] = frozenset()

    def texts(self) -> list[list[str]]:
        """All cells formatted."""
        return [
            [column.text(cell) for column, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` colours it where colours exist and is named in words where they do
    not."""

    text: str
    tone: Literal["plain", "good", "warning", "bad"] = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of paragraphs."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Entry:
    """A headline, a few facts beside it, and a sentence under it."""

    title: str
    facts: str
    text: str
    tone: Literal["plain", "good", "warning", "bad"] = "plain"


@dataclass(frozen=True)
class Entries:
    """A list of entries, the most important first."""

    items: tuple[Entry, ...]


@dataclass(frozen=True)
class Html:
    """Ready markup (an SVG, a picture, a widget) for the page; elsewhere `fallback` stands for it,
    if not empty."""

    markup: str
    fallback: str = ""
    caption: str = ""


Block = Table | Text | Bullets | Entries | Html


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it. `console` False keeps it to the page and markdown."""

    title: str
    blocks: tuple[Block, ...]
    console: bool = True


@dataclass(frozen=True)
class Report:
    """A whole report. `summary` is the one sentence that must be read; `scripts` are inlined at the
    page's end."""

    title: str
    summary: str
    sections: tuple[Section, ...]
    scripts: tuple[str, ...] = field(default=())


def rows_of(*rows: Sequence[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """Rows as tuples."""
    return tuple(tuple(row) for row in rows)
