"""Every fix that a finding of any room names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from halftime.fix import FIXES

SOURCE = Path(__file__).parents[3] / "src" / "halftime"
ROOMS = ("profile", "trace", "audit", "gateway")


def strings(node: ast.AST) -> Iterator[str]:
    """Whatever text an expression can come to; of an f-string its pieces, '*' for what is filled
    in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values
        )
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from strings(value)


def named_fixes(path: Path) -> Iterator[tuple[str, str]]:
    """Texts in the places of a room where fixes are named: `fix=`, the fix of `finding(…)`, tables
    called *FIX*."""
    for node in ast.walk(ast.parse(path.read_text())):
        found: list[ast.AST] = []
        if isinstance(node, ast.Call):
            found += [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            place = {"finding": 3, "_Way": 1}.get(name)
            found += [node.args[place]] if place is not None and len(node.args) > place else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if re.search(r"(^|_)FIX(ES)?\b", getattr(target, "id", "")) and node.value is not None:
                found.append(node.value)
        if isinstance(node, ast.FunctionDef) and node.name == "fix_for":
            found += [
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Return) and part.value is not None
            ]
        for each in found:
            yield from ((text, f"{path.name}:{node.lineno}") for text in strings(each))  # type: ignore[attr-defined]


NAMED = [
    pair
    for room in ROOMS
    for path in sorted((SOURCE / "verbs" / room).glob("*.py"))
    for pair in named_fixes(path)
]


def test_fixes_are_found_in_the_sources() -> None:
    assert {"schedule-table", "text-warmup", "prompt-cache", "loop-graph"} <= {
        name for name, _ in NAMED
    }


def test_every_fix_that_a_finding_names_exists() -> None:
    import fnmatch

    wrong = [(name, where) for name, where in NAMED if not fnmatch.filter(FIXES, name)]
    assert wrong == []
