"""A page's numbers come from committed results, and each result from a module that exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from halftime.base.store import read_json
from halftime.cli import VERBS
from halftime.records.benchmark import Benchmark

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import evidence  # noqa: E402
from benchmarks.frame import Frame  # noqa: E402
from benchmarks.tables import RESULTS  # noqa: E402

MODULES = evidence.benchmarks()
COMMITTED = evidence.committed(RESULTS, "*.json")
# Modules that write tables into pages, and with --check say whether they would change anything.
WRITERS = [
    "benchmarks.captions.page",
    "benchmarks.evidence",
    "benchmarks.fix.breadth_page",
    "benchmarks.fix.page",
    "benchmarks.gate.page",
    "benchmarks.gateway.page",
    "benchmarks.gpu.page",
    "benchmarks.serve.page",
    "benchmarks.tune.page",
    "benchmarks.verify.page",
    "workshop.forecast.page",
]
# What stands in benchmarks/ and workshop/forecast beside the modules that measure.
OTHERS = {
    *WRITERS,
    "benchmarks",
    "benchmarks.audit.coverage",  # writes a whole page
    "benchmarks.contest",
    "benchmarks.contestant",
    "benchmarks.frame",
    "benchmarks.fresh",
    "benchmarks.gate.slowed",
    "benchmarks.gateway.naive_proxy",
    "benchmarks.gateway.processes",
    "benchmarks.gpu.evidence",  # its page is docs/hardware.md
    "benchmarks.gpu.models",
    "benchmarks.gpu.parts",
    "benchmarks.profile.page",  # tests/verbs/profile/test_profile_planted.py holds its page
    "benchmarks.serve.process",
    "benchmarks.serve.soft_faults",  # rows of benchmarks.serve.faults
    "benchmarks.serve.stand_in",
    "benchmarks.tables",
    "benchmarks.tune.recipe",
    "workshop.forecast.traces",
    "workshop.forecast.translate",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("module", WRITERS)
def test_the_tables_are_those_of_the_committed_results(module: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", module, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr


def test_a_changed_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evidence.result
    monkeypatch.setattr(
        evidence, "result", lambda name: real(name) | {"speedup_over_hta": {"value": 3.21}}
    )
    assert "3.2x faster at reading" in evidence.evidence()
    assert evidence.evidence() != evidence.PAGE.read_text()


def test_every_verb_says_what_it_was_checked_against() -> None:
    assert list(evidence.CELLS) == list(VERBS)


def test_every_module_measures_or_is_known_not_to() -> None:
    modules = {module_of(path) for path in files("benchmarks", "workshop/forecast")}
    assert modules == set(MODULES) | OTHERS


def test_a_benchmark_stands_in_its_verbs_folder() -> None:
    folders = {path.name for path in (ROOT / "benchmarks").iterdir() if list(path.glob("*.py"))}
    assert folders <= {*VERBS, "fix", "gpu"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_result_has_exactly_one_module_or_verb_that_repeats_it(path: Path) -> None:
    commands = evidence.made_by(path)
    assert len(commands) == 1, commands
    words = commands[0].split()
    if words[0] == "halftime":
        assert words[1] in VERBS
    else:
        assert words[0] in (*MODULES, "scripts.matrix")


def test_every_result_has_exactly_one_row() -> None:
    assert len(COMMITTED) >= 40
    page = evidence.PAGE.read_text()
    for path in COMMITTED:
        assert page.count(f"| `{path.relative_to(ROOT)}` |") == 1, path.name


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_has_a_result_and_a_row(module: str) -> None:
    assert [path for path in COMMITTED if module in evidence.made_by(path)], "no result"
    assert evidence.PAGE.read_text().count(f"| `{module}` | {MODULES[module]} |") == 1


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_says_what_it_asks(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    command = text.partition(f"    python -m {module}")[2].partition("\n\n")[0]
    assert "--out benchmarks/results/" in command, "no command that repeats the committed result"


@pytest.mark.parametrize(
    "path", files("benchmarks", "workshop", "scripts", "examples"), ids=lambda path: module_of(path)
)
def test_what_it_imports_exists(path: Path) -> None:
    """Nothing else runs these here, so a name that moved would go unnoticed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] in ("halftime", "benchmarks", "workshop"):
            for name in node.names:
                assert exists(node.module, name.name), f"{node.module} has no {name.name}"


def exists(module: str, name: str) -> bool:
    if importlib.util.find_spec(module) is None:
        return False
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


def test_a_result_keeps_machine_versions_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ignored", "--out", str(tmp_path / "new" / "x.json")])
    frame = Frame("benchmarks/fix/peers.py", "What is asked\nhere?\n\nRegime: none.")
    frame.parse()
    assert frame.earlier() == {}
    frame.write({"rows": [1]})
    record = read_json(tmp_path / "new" / "x.json", Benchmark)
    assert record.result == frame.earlier() == {"rows": [1]}
    assert record.benchmark == "fix_peers"
    assert record.asks == "What is asked here?"
    assert record.environment
    assert record.environment.versions["torch"]
    assert record.environment.cores >= 1
    assert all((record.created, record.halftime))
    assert record.command == f"python -m benchmarks.fix.peers --out {tmp_path / 'new' / 'x.json'}"


def test_a_trial_goes_below_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ignored"])
    frame = Frame("benchmarks/fix/peers.py", __doc__)
    assert frame.parse().out == frame.out == Path("out/fix_peers.json")
