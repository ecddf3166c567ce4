"""Every public name says what it is: modules, classes, functions, methods. A front door's name says
more."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import halftime

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted(SOURCE.rglob("*.py"))
# What the name of a method already says, by the protocol that it is part of.
PROTOCOLS = {
    "forward",
    "list_commands",
    "get_command",
    "format_commands",
    "resolve_command",
    "parse_args",
}


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in node.body:
        if isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def says_itself(name: str, node: ast.AST) -> bool:
    """An override of a library's method, a property that reads as a sentence, or a setter."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or "." not in name:
        return False
    return bool(node.decorator_list) or node.name in PROTOCOLS or len(node.body) <= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "the module says nothing"
    missing = [
        f"{path.name}:{node.lineno} {name}"  # type: ignore[attr-defined]
        for name, node in public(tree)
        if not ast.get_docstring(node) and not says_itself(name, node)  # type: ignore[arg-type]
    ]
    assert not missing


@pytest.mark.parametrize(
    "name", [name for name in dir(halftime) if name not in ("__version__", "FIXES")]
)
def test_the_front_door_tells_units_and_errors(name: str) -> None:
    value = getattr(halftime, name)
    text = inspect.getdoc(value) or ""
    assert len(text.split()) >= 8, f"halftime.{name} says too little: {text!r}"
    if inspect.isfunction(value):
        assert "aises" in text, f"halftime.{name} does not say what it raises"
