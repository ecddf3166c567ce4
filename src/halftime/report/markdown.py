"""A Report as markdown, for a pull request."""

from __future__ import annotations

from halftime.report.model import Block, Bullets, Entries, Report, Section, Table, Text

_MARKS = {"plain": "", "good": "✅ ", "warning": "⚠️ ", "bad": "❌ "}


def markdown(report: Report) -> str:
    """The whole report as GitHub-flavoured markdown."""
    parts = [f"## {report.title}", report.summary]
    for section in report.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [text for text in map(_block, section.blocks) if text]
    return [f"### {section.title}", *blocks] if blocks else []


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Text):
        return _MARKS[block.tone] + block.text
    if isinstance(block, Bullets):
        return "\n".join(f"- {_MARKS[item.tone]}{item.text}" for item in block.items)
    if isinstance(block, Entries):
        return "\n".join(
            f"- {_MARKS[e.tone]}**{e.title}** ({e.facts}): {e.text}" for e in block.items
        )
    return block.fallback


def table(data: Table) -> str:
    """One table; parts of a row are indented with a dot, since markdown drops spaces."""
    header = _line([column.title for column in data.columns])
    rule = _line(["---" if column.unit == "text" else "---:" for column in data.columns])
    rows = []
    for index, texts in enumerate(data.texts()):
        first = f"· {texts[0]}" if index in data.indent else texts[0]
        cells = [first, *texts[1:]]
        rows.append(_line([f"**{cell}**" if index in data.emphasis else cell for cell in cells]))
    title = [f"**{data.title}**\n"] if data.title else []
    return "\n".join([*title, header, rule, *rows])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
