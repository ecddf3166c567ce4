"""The table of fixes: each row has its code, its line in the guide, and settings that exist."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from halftime.fix import CONFLICTS, FIXES, ORDER
from halftime.records import Finding
from halftime.records.base import Json
from halftime.records.fixes import ALWAYS, FIX_ROWS, FixName, FixRow

ROOT = Path(__file__).parents[2]
NAMES = get_args(FixName)
GUIDE = (ROOT / "docs" / "fix.md").read_text(encoding="utf-8")
ROWS = list(FIX_ROWS.values())


def as_toml(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def test_every_name_has_a_row_and_code_in_the_order_of_application() -> None:
    assert tuple(FIX_ROWS) == tuple(FIXES) == ORDER == NAMES
    for name, fix in FIXES.items():
        assert fix.name == name
        assert callable(fix.applies)
        assert callable(fix.apply)


def test_conflicts_name_fixes_and_parts_that_they_work_on() -> None:
    for part, names in CONFLICTS:
        for name in names:
            parts = {
                part
                for settings in FIX_ROWS[name].proposals
                for part in FIX_ROWS[name].parts(settings)
            }
            assert part in parts, f"{name} never works on the {part}"
    assert all(name in FIX_ROWS for pair, _ in ALWAYS for name in pair)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_guide_has_its_line(row: FixRow) -> None:
    settings = ", ".join(f"`{name} = {as_toml(value)}`" for name, value in row.settings.items())
    assert f"| `{row.name}` | {row.level} | {settings or '-'} | {row.summary} |" in GUIDE


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_its_settings_exist_and_its_extra_can_be_installed(row: FixRow) -> None:
    assert {effect.setting for effect in row.setting_effects} <= row.settings.keys()
    for proposal in row.proposals:
        FIXES[row.name].with_defaults(proposal)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert row.extra is None or row.extra in extras["optional-dependencies"]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_it_has_a_prior_or_a_reason_for_none(row: FixRow) -> None:
    assert all(row.expected(proposal) for proposal in row.proposals) != bool(row.not_tried)


def test_a_finding_of_another_version_still_loads() -> None:
    """A name that this version does not have is text, not an error."""
    written = b'{"id": "x", "stage": "denoise", "message": "m", "fix": "of-another-version"}'
    assert msgspec.json.decode(written, type=Finding).fix == "of-another-version"
