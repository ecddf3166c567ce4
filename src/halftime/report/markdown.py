"""A Report as markdown, for a pull request."""

from __future__ import annotations

import re

from halftime.report.model import Block, Bullets, Entries, Entry, Report, Table, Text, printable

_MARKS = {"plain": "", "good": "✅ ", "warning": "⚠️ ", "bad": "❌ "}


def markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured markdown."""
    parts = [f"## {_text(report.title)}", _text(report.summary)]
    for section in report.sections:
        if blocks := [text for text in map(_block, section.blocks) if text]:
            parts += [f"### {_text(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Text of a report, which is data: no HTML, no link and no picture of its own."""
    return printable(text).replace("\\", "\\\\").replace("<", "&lt;").replace("[", "\\[")


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Text):
        return _MARKS[block.tone] + _text(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_MARKS[item.tone]}{_text(item.text)}" for item in block.items)
    if isinstance(block, Entries):
        return "\n".join(
            f"- {_MARKS[entry.tone]}**{_text(entry.title)}** ({_text(entry.facts)}): "
            f"{_text(entry.text)}{_command(entry)}"
            for entry in block.items
        )
    return _text(block.fallback)


def _command(entry: Entry) -> str:
    """As a block of code, whose fence is longer than any within."""
    if not entry.command:
        return ""
    fence = "`" * (3 + max(map(len, re.findall("`+", entry.command)), default=0))
    lines = printable(entry.command).replace("<", "&lt;").splitlines()
    return "".join(f"\n  {line}" for line in (f"{fence}sh", *lines, fence))


def table(data: Table) -> str:
    """One table; parts of a row are indented with a dot, since markdown drops spaces."""
    header = _line([_cell(column.title) for column in data.columns])
    rule = _line(["---" if column.unit == "text" else "---:" for column in data.columns])
    rows = []
    for index, texts in enumerate(data.texts()):
        cells = [_cell(text) for text in texts]
        cells[0] = f"· {cells[0]}" if index in data.indent else cells[0]
        bold = index in data.emphasis
        rows.append(_line([f"**{cell}**" if bold and cell else cell for cell in cells]))
    title = [f"**{_text(data.title)}**\n"] if data.title else []
    return "\n".join([*title, header, rule, *rows])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|").replace("\n", " ")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
