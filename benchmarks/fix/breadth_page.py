"""The tables of docs/fix-breadth.md, from benchmarks/results/fix_breadth.json.

    python -m benchmarks.fix.breadth_page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

from benchmarks.tables import ROOT, between, result, table, update
from halftime.records.fixes import FIX_ROWS

PAGE = ROOT / "docs" / "fix-breadth.md"
Row = dict[str, Any]
Reasons = dict[str, dict[str, str]]  # fix -> reason -> its letter


def reason(text: str) -> str:
    """Why a fix refuses, without its name and what to do."""
    inner = re.sub(r"^fix '[^']*' does not apply: ", "", text)
    return re.sub(r"[0-9][0-9.]*(e-?[0-9]+)?(?= |$)", "N", inner).rstrip(".")


def letters(rows: dict[str, Row]) -> Reasons:
    """The reasons of each fix, the most frequent first."""
    counts: dict[str, Counter[str]] = {fix: Counter() for fix in FIX_ROWS}
    for row in rows.values():
        for fix, cell in row.get("cells", {}).items():
            if cell["outcome"] == "refuses":
                counts[fix][reason(cell["text"])] += 1
    return {
        fix: {words: _letter(index) for index, (words, _) in enumerate(counter.most_common())}
        for fix, counter in counts.items()
    }


def _letter(index: int) -> str:
    turns, place = divmod(index, len(ascii_lowercase))
    return ascii_lowercase[place] * (turns + 1)


def shown(fix: str, cell: dict[str, Any] | None, reasons: Reasons) -> str:
    """One cell: the picture's difference, a reason's letter, or FAILS."""
    if cell is None:
        return ""
    if cell["outcome"] == "fails":
        return "**FAILS**"
    if cell["outcome"] == "refuses":
        return reasons[fix][reason(cell["text"])]
    difference = cell.get("difference")
    if difference is None:
        return "yes"
    return "0" if difference == 0 else f"{difference:.0e}".replace("e-0", "e-")


def counted(rows: dict[str, Row]) -> str:
    """'N rows: ... apply, ... refuse, ... fail'."""
    outcomes = Counter(
        cell["outcome"] for row in rows.values() for cell in row.get("cells", {}).values()
    )
    errors = sum("error" in row for row in rows.values())
    words = (
        f"{len(rows)} rows, {sum(outcomes.values())} cells: {outcomes['applies']} apply, "
        f"{outcomes['refuses']} refuse, {outcomes['fails']} fail."
    )
    return words + (f" {errors} rows could not be measured." if errors else "")


def matrix(rows: dict[str, Row], first: str) -> Iterator[str]:
    """The whole matrix, its reasons, and what fails."""
    reasons = letters(rows)
    checks = [name for name in ("profile", "audit") if any(name in row for row in rows.values())]
    head = (first, *checks, *(f"`{fix}`" for fix in FIX_ROWS))
    lines = []
    for name, row in rows.items():
        cells = row.get("cells", {})
        lines.append(
            [
                name,
                *(_check(row.get(check)) for check in checks),
                *(shown(fix, cells.get(fix), reasons) for fix in FIX_ROWS),
            ]
        )
    yield counted(rows)
    yield ""
    yield from table(head, lines)
    yield ""
    yield from _failures(rows)
    yield "Why a fix refuses:"
    yield ""
    for fix, words in reasons.items():
        if words:
            listed = "; ".join(f"({letter}) {text}" for text, letter in words.items())
            yield f"- `{fix}`: {listed}."
    yield ""


def _check(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return {"applies": "right", "refuses": "refuses", "fails": "**FAILS**"}[cell["outcome"]]


def _failures(rows: dict[str, Row]) -> Iterator[str]:
    failing = [
        f"- {name}, {fix}: {cell['text']}"
        for name, row in rows.items()
        for fix, cell in {
            **{check: row[check] for check in ("profile", "audit") if check in row},
            **row.get("cells", {}),
        }.items()
        if cell["outcome"] == "fails"
    ] + [f"- {name}: {row['error']}" for name, row in rows.items() if "error" in row]
    if failing:
        yield "What fails:"
        yield ""
        yield from (line.replace("|", "\\|").replace("<", "&lt;") for line in failing)
        yield ""


def rewritten(page: str) -> str:
    measured = result("fix_breadth") or {"families": {}, "states": {}}
    page = between(page, "families", list(matrix(measured["families"], "family"))[:-1])
    return between(page, "states", list(matrix(measured["states"], "state"))[:-1])


if __name__ == "__main__":
    update({PAGE: rewritten})
