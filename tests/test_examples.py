"""The examples, run as a reader runs them, those that draw by themselves on the bundled model."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from gateway_servers import mock_and_proxy
from halftime.base.store import read_report
from halftime.cli.gate import command as gate_command
from halftime.records import Session
from halftime.verbs.gateway.mock import Behaviour
from quick_tuning import tune_quickly
from serve_fake import SIZES, serving

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.slow


def run(folder: Path, *words: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    completed = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert completed.returncode == 0, completed.stdout[-1500:] + completed.stderr[-1500:]
    return completed.stdout


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """As `run`, in this process, which has imported torch and diffusers already."""
    monkeypatch.chdir(tmp_path)

    def here(file: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [file, *words])
        runpy.run_path(str(EXAMPLES / file), run_name="__main__")
        return capsys.readouterr().out

    return here


def test_profile_my_pipeline(tmp_path: Path, run_here: Callable[..., str]) -> None:
    out = run_here("profile_my_pipeline.py", "bundled", "2")
    assert "vae_decode" in out
    assert "unexplained" in out
    assert read_report(tmp_path / "profile.html", Session).workload.steps == 2


def test_gate_on_syncs(tmp_path: Path) -> None:
    plugin = ["-p", "halftime.pytest_plugin"] if "halftime" not in _entry_points() else []
    words = [
        "-m",
        "pytest",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        *plugin,
        str(EXAMPLES / "gate_on_syncs"),
    ]
    assert "1 passed" in run(tmp_path, *words, "--rootdir", str(tmp_path))


def _entry_points() -> set[str]:
    from importlib import metadata

    return {point.name for point in metadata.entry_points(group="pytest11")}


def test_the_gates_workflow_runs_that_file() -> None:
    text = (EXAMPLES / "gate_on_syncs" / "ci.yml").read_text()
    assert "pytest tests/test_no_syncs.py" in text
    assert "halftime" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]


def test_gate_in_ci(tmp_path: Path) -> None:
    """The GitLab job's script and the GitHub step's options, as words of a real shell that halftime
    knows; its test file is run by tests/test_pytest_plugin.py."""
    folder = EXAMPLES / "gate_in_ci"
    for name in ("pip", "halftime"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.words\n')
        (tmp_path / name).chmod(0o755)
    job = yaml.safe_load((folder / "gitlab.yml").read_text())["gate"]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI_MERGE_REQUEST_DIFF_BASE_SHA": "a1"}
    subprocess.run(["bash", "-ec", "\n".join(job["script"])], env=variables, check=True)
    words = (tmp_path / "halftime.words").read_text().splitlines()
    values = gate_command.make_context("gate", words[1:]).params
    assert (words[0], values["against"], values["exact"]) == ("gate", "a1", True)
    reports = {values["junit_file"], *job["artifacts"]["paths"]}
    assert reports == {values["junit_file"], "gate.json", "gate.html", "gate.md"}
    assert values["history_file"] in job["cache"]["paths"]
    workflow = yaml.safe_load((folder / "github.yml").read_text())
    step = workflow["jobs"]["gate"]["steps"][-1]["with"]
    assert set(step) <= set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    gate_command.make_context("gate", ["--against", "a1", *shlex.split(step["options"])])


def test_tune_to_a_target(
    tmp_path: Path, run_here: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune_quickly(monkeypatch, "vae-channels-last", "schedule-table")
    out = run_here("tune_to_a_target.py", "bundled", "1.05", "300", "2", "2")
    assert "in all; pictures: " in out
    assert Image.open(tmp_path / "tuned.png").size == (128, 128)


def test_serve_with_previews(tmp_path: Path) -> None:
    """From a stand-in worker: the bundled model is served in tests/cli/test_cli_serve.py."""
    with serving() as server:
        words = ("a flat icon of a kite", server.address, str(tmp_path))
        out = run(tmp_path, EXAMPLES / "serve_with_previews.py", *words)
    assert "preview-0.png" in out
    assert Image.open(tmp_path / "final.png").size == SIZES[0]


def test_measure_my_gateway(tmp_path: Path) -> None:
    with mock_and_proxy(Behaviour(delay=0.005)) as (direct, through):
        out = run(tmp_path, EXAMPLES / "measure_my_gateway.py", direct, through, "20", "1", "20")
    assert "adds" in out
    assert "p50" in out


def test_every_example_is_listed_and_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")} | {"gate_on_syncs", "gate_in_ci"}
    assert len(names) == 6
    listed, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    for name in names:
        assert name in listed
        assert f"def test_{name}(" in tests
