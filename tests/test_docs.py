"""Every halftime command in the README and the guides is one that the command line understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from halftime.cli import VERBS
from halftime.cli import halftime as group

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each halftime command in a page's shell blocks, lines ending in a backslash joined."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            first = re.split(r" (?:\|\|?|&&|;) ", line.removeprefix("$ "))[0]
            words = shlex.split(first, comments=True)
            words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]  # variables set for one command
            if words and Path(words[0]).name == "halftime":
                found.append([word for word in words[1:] if word not in (">", "&", "&&")])
    return found


CASES = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), CASES, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_documented_command_parses(page: str, words: list[str]) -> None:
    context = click.Context(group, info_name="halftime")
    while words and isinstance(context.command, click.Group):
        name, found, rest = context.command.resolve_command(context, list(words))
        assert found is not None
        context = found.make_context(name, rest, parent=context)
        words = [*context._protected_args, *context.args] if isinstance(found, click.Group) else []


def test_every_verb_has_a_guide_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert (ROOT / "docs" / f"{verb}.md").is_file(), f"docs/{verb}.md is missing"
        assert f"docs/{verb}.md" in readme
