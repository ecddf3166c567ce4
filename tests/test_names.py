"""The naming rules: a name says what a thing is, and a class name has one meaning."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "halftime"
FILES = sorted(SOURCE.rglob("*.py"))
LINE_LENGTH = 100
PRAGMA = re.compile(r"\s*# (?:type|noqa|pragma)\b.*")  # not counted, as in ruff
# Participles and pronouns: as the name of a local or a parameter they say nothing about the value.
VAGUE = {
    *("found", "each", "made", "kept", "told", "given", "seen", "taken", "said", "asked"),
    *("place", "rest", "much", "many", "other", "another", "several", "others", "one", "ones"),
    *("some", "wanted", "shown", "drawn", "known", "done", "whole", "those", "these", "what"),
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def vague_names(tree: ast.AST) -> set[str]:
    """Locals and parameters that the list above names; the fields of a record are its format."""
    fields = {
        field.target
        for record in ast.walk(tree)
        if isinstance(record, ast.ClassDef)
        for field in record.body
        if isinstance(field, ast.AnnAssign)
    }
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields
    } | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names & VAGUE


def is_too_long(line: str) -> bool:
    """One long word, such as a regular expression, cannot be broken; ruff lets it pass, too."""
    return len(line) > LINE_LENGTH and len(line.split()) > 1


def violations() -> set[str]:
    """One line for each rule that a file breaks."""
    lines: set[str] = set()
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines |= {f"{name_of(path)}: a variable called {name}" for name in vague_names(tree)}
        if any(is_too_long(PRAGMA.sub("", line)) for line in text.splitlines()):
            lines.add(f"{name_of(path)}: a line of more than {LINE_LENGTH} columns")
        if "fmt: " + "skip" in text or "fmt: " + "off" in text:
            lines.add(f"{name_of(path)}: a line that is not formatted")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name.lstrip("_")].add(name_of(path))
    lines |= {
        f"class {name} in {', '.join(sorted(paths))}"
        for name, paths in homes.items()
        if len(paths) > 1
    }
    return lines


def test_names_say_what_things_are() -> None:
    assert not violations()


def test_the_rules_find_what_they_forbid() -> None:
    assert vague_names(ast.parse("def f(found, x):\n    for each in x: kept = each")) == {
        "found",
        "each",
        "kept",
    }
    assert not vague_names(ast.parse("page.found = rows[0].each"))
    assert not vague_names(ast.parse("class Rung: kept: bool"))
