"""Tables in docs/ that are written from result files: what every page writer shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from halftime.base.store import read_json
from halftime.records import Environment, Record
from halftime.records.benchmark import Benchmark

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
R = TypeVar("R", bound=Record)


def result(name: str) -> dict | None:
    """What a benchmark measured, by its file's name without the ending; None where it was not
    run."""
    record = record_of(name, Benchmark)
    return record.result if record else None


def machine(name: str) -> Environment:
    """Where it was measured. Raises ValueError where the result does not say."""
    record = record_of(name, Benchmark)
    if record is None or record.environment is None:
        raise ValueError(
            f"benchmarks/results/{name}.json does not say where it was measured: run the "
            "benchmark again"
        )
    return record.environment


def record_of(name: str, kind: type[R]) -> R | None:
    """The result file of a verb or of a benchmark, or None where there is none."""
    path = RESULTS / f"{name}.json"
    return read_json(path, kind) if path.exists() else None


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """The lines of a markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def between(page: str, name: str, lines: list[str]) -> str:
    """The page with new lines between `<!-- name -->` and `<!-- end of name -->`. Raises ValueError
    where it lacks one of them."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, has_start, after_start = page.partition(start)
    _, has_end, after = after_start.partition(end)
    if not has_start or not has_end:
        raise ValueError(f"the page has no markers {start} … {end}")
    return before + "\n".join([start, *lines, end]) + after


def update(pages: dict[Path, Callable[[str], str]]) -> None:
    """Rewrite each page, or, with --check on the command line, end with 1 where that would change
    one."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    new_texts = {path: rewrite(texts[path]) for path, rewrite in pages.items()}
    if "--check" in sys.argv:
        stale = [path.name for path in pages if texts[path] != new_texts[path]]
        sys.exit(f"{', '.join(stale)} not up to date: run make docs-tables" if stale else None)
    for path, text in new_texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
