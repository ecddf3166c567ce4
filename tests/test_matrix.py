"""`make matrix`: its bookkeeping, its table, what doctor makes of it. No environment is made."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from halftime.verbs.doctor import tested
from halftime.verbs.doctor.tested import beside_tested

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "scripts" / "matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(name: str, torch: str, passed: bool = True) -> dict[str, object]:
    check = {"check": "audit", "passed": passed, "seconds": 3.2, "says": "" if passed else "boom"}
    return {
        "environment": name,
        "versions": {"python": "3.11.7", "torch": torch},
        "checks": [check],
    }


def test_the_oldest_environment_is_the_lower_end_of_the_ranges(matrix: ModuleType) -> None:
    """What pyproject.toml allows is what was tested."""
    oldest = matrix.ENVIRONMENTS[0]
    assert SpecifierSet(PROJECT["requires-python"]).contains(oldest.python)
    ranges = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    for text in oldest.requirements:
        name, _, version = text.partition("==")
        (lowest,) = ranges[name]
        assert ranges[name].contains(version)
        assert version.startswith(lowest.version), f"{name}: {version} is not the oldest {lowest}"


def test_each_python_of_the_classifiers_is_tested(matrix: ModuleType) -> None:
    pythons = {environment.python for environment in matrix.ENVIRONMENTS}
    prefix = "Programming Language :: Python :: 3."
    classified = {
        text.rpartition(" ")[2] for text in PROJECT["classifiers"] if text.startswith(prefix)
    }
    assert classified == pythons


def test_every_verb_has_a_check(matrix: ModuleType) -> None:
    from halftime.cli import VERBS

    names = " ".join(check.name for check in matrix.CHECKS)
    assert [verb for verb in VERBS if verb not in names] == []
    for check in matrix.CHECKS:
        if check.words[0] == "pytest":
            assert (ROOT / check.words[1]).exists(), check.words


def test_a_check_passes_fails_or_runs_out_of_time(matrix: ModuleType, tmp_path: Path) -> None:
    def outcome(code: str, **settings: object) -> dict[str, object]:
        check = matrix.Check("c", ("python", "-c", code), **settings)
        return matrix.outcome(check, Path(sys.executable), tmp_path)

    assert outcome("pass")["passed"]
    assert outcome("raise SystemExit(3)", exit_codes=(0, 3))["passed"]
    failed = outcome("print('halftime: no such thing'); raise SystemExit(2)")
    assert (failed["passed"], failed["says"]) == (False, "halftime: no such thing")
    late = outcome("import time; time.sleep(60)", most_seconds=1)
    assert (late["passed"], late["says"]) == (False, "not finished after 1 s")


def test_the_first_failure_and_the_count_are_kept(matrix: ModuleType) -> None:
    output = (
        "..F\nE  x\nFAILED tests/a.py::b - boom\nFAILED tests/a.py::c\n2 failed, 1 passed in 3s\n"
    )
    assert matrix.last_word(output) == "FAILED tests/a.py::b - boom 2 failed, 1 passed in 3s"


def test_the_table_has_a_column_for_each_environment(matrix: ModuleType) -> None:
    lines = list(matrix.page_lines([row("oldest", "2.8.0"), row("newest", "2.13.0", False)]))
    assert lines[0] == "|  | oldest | newest |"
    assert "| torch | 2.8.0 | 2.13.0 |" in lines
    assert "| audit | yes, 3 s | **no** |" in lines
    assert "- newest, audit: `boom`" in lines


def test_a_run_replaces_the_row_of_its_environment_alone(
    matrix: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "RESULT", tmp_path / "environments.json")
    matrix.save(row("newest", "2.13.0"))
    matrix.save(row("oldest", "2.8.0", False))
    matrix.save(row("oldest", "2.8.1"))
    kept = [(r["environment"], r["versions"]["torch"]) for r in matrix.rows()]
    assert kept == [("oldest", "2.8.1"), ("newest", "2.13.0")]


def test_the_page_and_doctors_table_are_those_of_the_committed_result(matrix: ModuleType) -> None:
    page, table = matrix.PAGE.read_text(), matrix.TESTED.read_text()
    assert page == matrix.between(page, "matrix", list(matrix.page_lines(matrix.rows())))
    names = {environment["environment"] for environment in matrix.rows()}
    assert all(f'"environment": "{name}"' in table for name in names)


@pytest.mark.parametrize(
    ("version", "is_tested", "says"),
    [
        ("2.8.0", True, "tested"),
        ("2.13.0+cu130", True, "tested"),
        ("2.9.1", False, "2.8.0 and 2.13.0 were"),
        ("2.7.0", False, "older than 2.8.0"),
        ("2.14.0", False, "newer than 2.13.0"),
    ],
)
def test_doctor_says_where_a_version_is(
    version: str,
    is_tested: bool,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import json

    table = tmp_path / "tested.json"
    table.write_text(json.dumps([row("oldest", "2.8.0"), row("pinned", "2.13.0+cpu")]))
    monkeypatch.setattr(tested, "TABLE", table)
    python, torch = beside_tested({"python": "3.11.2", "torch": version, "numpy": "2.0"})
    assert python.tested
    assert torch.tested is is_tested
    assert says in torch.says
