"""The guide names every option and every finding, and its tables are the committed results."""

from __future__ import annotations

import re
from pathlib import Path

from halftime.cli.gateway import command

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "gateway.md").read_text()


def test_every_finding_is_explained() -> None:
    room = ROOT / "src" / "halftime" / "verbs" / "gateway"
    source = "".join(path.read_text() for path in room.glob("*findings.py"))
    named = set(re.findall(r'(?:finding|_on_a_path)\(\s*"([a-z-]+)"', source))
    assert len(named) >= 25
    for name in named:
        assert f"`{name}`" in GUIDE


def test_every_option_in_the_guide_exists() -> None:
    options = {
        word
        for option in [*command.params, *command.commands["mock"].params]
        for word in option.opts
    }
    lines = [
        line
        for line in GUIDE.splitlines()
        if line.startswith("halftime gateway") or line.startswith("    --")
    ]
    used = {word for line in lines for word in re.findall(r"--[a-z-]+", line)}
    assert len(used) > 10
    assert used <= options
