"""Tables in docs/ that are made of result files: what every *_table.py shares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def result(name: str) -> dict | None:
    """A result file by its name without ending, or None where it was not measured."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """The lines of a markdown table."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def placed(page: str, start: str, end: str, lines: list[str]) -> str:
    """The page with what stands between two markers replaced. Raises ValueError where it has none."""
    before, began, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not began or not found:
        raise ValueError(f"the page has no markers {start} … {end}")
    return before + "\n".join([start, *lines, end]) + after


def update(docs: Path, made: Callable[[str], str]) -> None:
    """Write the page anew, or with --check on the command line end with 1 where that would change it."""
    page = docs.read_text(encoding="utf-8")
    new = made(page)
    if "--check" in sys.argv:
        script = Path(sys.argv[0]).name
        sys.exit(None if new == page else f"docs/{docs.name} is not up to date: run benchmarks/{script}")
    docs.write_text(new, encoding="utf-8")
    print(f"wrote {docs}")
