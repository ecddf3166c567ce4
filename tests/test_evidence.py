"""What pages say was measured is what the results say; results keep where and when they were
made."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from halftime.base.store import read_json
from halftime.records.benchmark import Benchmark

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*.py")
    if "def main(" in path.read_text() and "table" not in path.stem
)


# Scripts that write tables into pages, and with --check say whether they would change anything.
WRITERS = ("fix", "gateway", "serve", "verify")
TABLES = [
    ROOT / "scripts" / "readme_table.py",
    *(ROOT / "benchmarks" / f"{name}_table.py" for name in WRITERS),
]


@pytest.mark.parametrize(
    "script",
    [path for path in TABLES if path.name != "fix_schedule_table.py"],
    ids=lambda p: p.stem,
)
def test_the_tables_are_those_of_the_committed_results(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_changed_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import readme_table

    page = readme_table.README.read_text()
    real = readme_table.result
    monkeypatch.setattr(
        readme_table, "result", lambda name: real(name) | {"speedup_over_hta": {"value": 3.21}}
    )
    assert "3.2x faster at reading" in readme_table.readme(page)
    assert readme_table.readme(page) != page


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_asks(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python benchmarks/{path.name}" in text, "no command that repeats it"
    assert len(text.splitlines()) >= 3


def test_a_result_keeps_machine_versions_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from evidence import write

    write(tmp_path / "x.json", "x", {"rows": [1]})
    kept = read_json(tmp_path / "x.json", Benchmark)
    assert kept.result == {"rows": [1]}
    assert kept.environment
    assert kept.environment.versions["torch"]
    assert kept.environment.cores >= 1
    assert all((kept.created, kept.halftime, kept.command))
