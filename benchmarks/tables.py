"""Tables in docs/ that are made of result files: what every *_table.py shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from halftime.base.store import read_json
from halftime.records import Environment, Record
from halftime.records.benchmark import Benchmark

HERE = Path(__file__).parent
R = TypeVar("R", bound=Record)


def result(name: str) -> dict | None:
    """What a benchmark measured, by its file's name without ending, or None where it was not
    run."""
    found = measured(name, Benchmark)
    return found.result if found else None


def machine(name: str) -> Environment:
    """Where it was measured. Raises ValueError where the result does not say."""
    found = measured(name, Benchmark)
    if found is None or found.environment is None:
        raise ValueError(
            f"benchmarks/results/{name}.json does not say where it was measured: run the "
            "benchmark again"
        )
    return found.environment


def measured(name: str, kind: type[R]) -> R | None:
    """A result file of a verb or of a script, or None where there is none."""
    path = HERE / "results" / f"{name}.json"
    return read_json(path, kind) if path.exists() else None


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """The lines of a markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def placed(page: str, start: str, end: str, lines: list[str]) -> str:
    """The page with what stands between two markers replaced. Raises ValueError where it has
    none."""
    before, began, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not began or not found:
        raise ValueError(f"the page has no markers {start} … {end}")
    return before + "\n".join([start, *lines, end]) + after


def update(docs: Path, made: Callable[[str], str]) -> None:
    """Write the page anew, or with --check on the command line end with 1 where that would change
    it."""
    page = docs.read_text(encoding="utf-8")
    new = made(page)
    if "--check" in sys.argv:
        script = Path(sys.argv[0]).name
        sys.exit(
            None if new == page else f"docs/{docs.name} is not up to date: run benchmarks/{script}"
        )
    docs.write_text(new, encoding="utf-8")
    print(f"wrote {docs}")
