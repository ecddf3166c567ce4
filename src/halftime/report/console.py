"""A Report on a terminal, readable without colour."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text as RichText

from halftime.report.model import Block, Bullets, Entries, Report, Table, Text

WIDE = 110  # columns of a terminal that holds a table's wide columns too
_STYLES = {"plain": "", "good": "green", "warning": "yellow", "bad": "red"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print to standard output; rich honours NO_COLOR and drops colour where the output is no
    terminal."""
    console = console or Console(highlight=False)
    console.print(f"[bold]{escape(report.title)}[/bold]")
    console.print(escape(report.summary))
    for section in report.sections:
        if section.console:
            console.print()
            console.print(f"[bold]{escape(section.title)}[/bold]")
            for block in section.blocks:
                _print_block(block, console)


def _print_block(block: Block, console: Console) -> None:
    if isinstance(block, Table):
        console.print(_rich_table(block, console.width))
    elif isinstance(block, Text):
        console.print(RichText(block.text, style=_STYLES[block.tone]))
    elif isinstance(block, Bullets):
        for item in block.items:
            _print_indented("•", RichText(item.text, style=_STYLES[item.tone]), console)
    elif isinstance(block, Entries):
        for entry in block.items:
            title = RichText.assemble(
                (entry.title, f"bold {_STYLES[entry.tone]}"), "  ", entry.facts
            )
            console.print(title)
            _print_indented(" ", RichText(entry.text), console)
    elif block.fallback:
        console.print(escape(block.fallback))


def _print_indented(mark: str, text: RichText, console: Console) -> None:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_row(mark, text)
    console.print(grid)


def _rich_table(table: Table, width: int) -> RichTable:
    drawn = RichTable(
        title=table.title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    shown = [i for i, column in enumerate(table.columns) if width >= WIDE or not column.wide]
    for index in shown:
        column = table.columns[index]
        text = column.unit == "text"
        drawn.add_column(
            column.title, justify="left" if text else "right", no_wrap=not text, overflow="fold"
        )
    for index, texts in enumerate(table.texts()):
        texts[0] = f"  {texts[0]}" if index in table.indent else texts[0]
        style = "bold" if index in table.emphasis else "dim" if index in table.indent else ""
        drawn.add_row(*(escape(texts[i]) for i in shown), style=style)
    return drawn
