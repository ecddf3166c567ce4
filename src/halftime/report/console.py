"""A Report on a terminal, readable without colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from halftime.report.model import Block, Bullets, Entries, Report, Table, Text, printable

WIDE = 110  # columns of a terminal that holds a table's wide columns too
_STYLES = {"plain": "", "good": "green", "warning": "yellow", "bad": "red"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print to standard output; rich honours NO_COLOR and uses no colour outside a terminal."""
    console = console or Console(highlight=False)
    console.print(_text(report.title, "bold"))
    console.print(_text(report.summary))
    for section in report.sections:
        if section.console:
            console.print()
            console.print(_text(section.title, "bold"))
            for block in section.blocks:
                _print_block(block, console)


def _text(text: str, style: str = "") -> RichText:
    """Text of a report, which is data: never rich's markup, and without control characters."""
    return RichText(printable(text), style)


def _print_block(block: Block, console: Console) -> None:
    if isinstance(block, Table):
        console.print(_rich_table(block, console.width))
    elif isinstance(block, Text):
        console.print(_text(block.text, _STYLES[block.tone]))
    elif isinstance(block, Bullets):
        for item in block.items:
            _print_indented("•", _text(item.text, _STYLES[item.tone]), console)
    elif isinstance(block, Entries):
        for entry in block.items:
            title = _text(entry.title, f"bold {_STYLES[entry.tone]}")
            console.print(RichText.assemble(title, "  ", _text(entry.facts)))
            _print_indented(" ", _text(entry.text), console)
    elif block.fallback:
        console.print(_text(block.fallback))


def _print_indented(mark: str, text: RichText, console: Console) -> None:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_row(mark, text)
    console.print(grid)


def _rich_table(table: Table, width: int) -> RichTable:
    rich_table = RichTable(
        title=_text(table.title) if table.title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    indices = [i for i, column in enumerate(table.columns) if width >= WIDE or not column.wide]
    for column in (table.columns[i] for i in indices):
        is_text = column.unit == "text"
        rich_table.add_column(
            _text(column.title),
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
        )
    for index, cells in enumerate(table.texts()):
        indented = index in table.indent
        cells[0] = f"  {cells[0]}" if indented else cells[0]
        style = "bold" if index in table.emphasis else "dim" if indented else ""
        rich_table.add_row(*(_text(cells[i]) for i in indices), style=style)
    return rich_table
