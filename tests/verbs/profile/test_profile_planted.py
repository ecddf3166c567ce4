"""Every finding has an example with that fault and no other, and docs/findings.md shows it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from halftime.verbs import profile
from halftime.verbs.profile.evidence import FINDING_NAMES
from halftime.verbs.profile.findings import findings
from planted_findings import CALM, ON_CARD, PLANTED, TRANSFORMER, WIDTH, ids, printed

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from benchmarks.profile import page  # noqa: E402


def test_every_finding_is_planted() -> None:
    assert set(PLANTED) == set(FINDING_NAMES)
    assert len(FINDING_NAMES) == len(set(FINDING_NAMES))


def test_a_rule_has_no_other_way_to_name_a_finding() -> None:
    """mypy holds what rules say to the list of names; nothing gets around it."""
    makers = [
        path.name
        for path in Path(str(profile.__file__)).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding"
    ]
    assert makers == ["evidence.py"]


@pytest.mark.parametrize("evidence", [CALM, ON_CARD, TRANSFORMER], ids=["cpu", "card", "dit"])
def test_nothing_is_said_where_nothing_is_planted(evidence: object) -> None:
    assert findings(evidence) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FINDING_NAMES)
def test_what_is_planted_is_said_and_nothing_else(name: str) -> None:
    evidence = PLANTED[name].evidence  # type: ignore[index]
    assert ids(evidence) == [name]
    lines = printed(evidence)
    assert lines[0].startswith(f"{name}  ")
    assert max(map(len, lines)) <= WIDTH
    assert not re.search("[\x00-\x1f\x7f]", "".join(lines))


def test_the_page_shows_what_is_printed_today() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.tables(text), "run: python -m benchmarks.profile.page"
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [*FINDING_NAMES]
