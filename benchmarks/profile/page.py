"""The examples of docs/findings.md, as the report prints them today.

    python -m benchmarks.profile.page [--check]

Rewrites the text between the page's markers; --check only says whether that would change it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.tables import ROOT, between, update
from halftime.verbs.profile.evidence import FINDING_NAMES

sys.path.insert(0, str(ROOT / "tests"))

from planted_findings import PLANTED, printed

PAGE = ROOT / "docs" / "findings.md"


def examples() -> Iterator[str]:
    """A heading for each finding, what was planted, and what the report says."""
    for name in FINDING_NAMES:
        fault, evidence = PLANTED[name]
        yield from (f"## {name}", "", f"Planted: {fault}.", "")
        yield from ("```text", *printed(evidence), "```", "")


def tables(page: str) -> str:
    """The page with today's examples."""
    return between(page, "examples", ["", *examples()])


if __name__ == "__main__":
    update({PAGE: tables})
