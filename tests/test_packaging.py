"""The wheel and the sdist, built offline; and `profile` in an environment that holds the base
dependencies alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MOST_BYTES = 30_000_000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built by hatchling as it is installed here: no network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_the_wheel_is_small_and_holds_what_it_must(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "halftime/bundled/model/unet/diffusion_pytorch_model.safetensors",
        "halftime/bundled/model/model_index.json",
        "halftime/bundled/ATTRIBUTION.md",
        "halftime/report/assets/d3.LICENSE",
        "halftime/report/assets/page.html",
        "halftime/py.typed",
    } <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.startswith("halftime")} == set(), (
        "tests or scripts got in"
    )
    assert not [name for name in names if name.endswith((".pyc", ".part", ".orig"))]


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode())
    assert headers["Name"] == "halftime"
    assert headers["License-Expression"] == "Apache-2.0"
    base = [text for text in headers.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert {Requirement(text).name for text in base} == {
        Requirement(text).name for text in PROJECT["dependencies"]
    }
    assert {"serve", "openvino", "onnx", "judge", "ray", "gateway"} <= set(
        headers.get_all("Provides-Extra", [])
    )


def test_the_sdist_holds_what_a_packager_needs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    required = {
        "pyproject.toml",
        "benchmarks/frame.py",
        "workshop/forecast/rows.csv",
        "workshop/bundled/numbers.json",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "tests/conftest.py",
        "src/halftime/__init__.py",
    }
    assert required <= names
    assert not [name for name in names if name.startswith((".venv", ".cache", "out/", "site/"))]


def closure(requirements: list[str]) -> set[str]:
    """Every distribution that these requirements pull in here, by name, without any extra."""
    names: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in names:
            names.add(name)
            for text in metadata.requires(name) or []:
                child = Requirement(text)
                if child.marker is None or any(child.marker.evaluate(extra) for extra in extras):
                    child.marker = None
                    waiting.append(child)
    return names


def pieces(distribution: str) -> Iterator[Path]:
    """What a distribution put into site-packages, by its topmost names."""
    site = Path(sysconfig.get_path("purelib"))
    for file in metadata.files(distribution) or []:
        top = file.parts[0]
        if top not in ("..", "__pycache__"):
            yield site / top


@pytest.fixture(scope="module")
def base_python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A fresh environment: the base dependencies' closure by links, and the wheel installed by
    pip."""
    folder = tmp_path_factory.mktemp("base")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    packages = folder / "packages"
    packages.mkdir()
    for name in closure(PROJECT["dependencies"]):
        for piece in pieces(name):
            link = packages / piece.name
            if piece.exists() and not link.exists():
                link.symlink_to(piece)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "base.pth").write_text(f"{packages}\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            str(wheel),
        ],
        check=True,
    )
    return python


def run_alone(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run without anything of this checkout or environment on the path."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    return subprocess.run(
        [str(python), *words],
        env=variables,
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_extra_is_within_reach_of_the_base(base_python: Path) -> None:
    """Else the test below would prove nothing."""
    for module in ("openvino", "onnxruntime", "pytest", "uvloop", "starlette"):
        assert run_alone(base_python, "-c", f"import {module}").returncode == 1, module
    where = run_alone(base_python, "-c", "import halftime; print(halftime.__file__)").stdout
    assert str(base_python.parent.parent) in where


def test_the_base_alone_profiles_the_bundled_model(base_python: Path, tmp_path: Path) -> None:
    command = str(base_python.with_name("halftime"))
    page = tmp_path / "p.html"
    completed = run_alone(
        Path(base_python),
        command,
        "profile",
        "--steps",
        "2",
        "--runs",
        "1",
        "--warmup",
        "0",
        "--html",
        str(page),
        "--json",
        "-",
    )
    assert completed.returncode == 0, completed.stderr
    session = json.loads(completed.stdout)
    assert sum(row["seconds"] for row in session["ledger"]) == pytest.approx(
        session["wall_seconds"]
    )
    assert session["cold_start"]["process_seconds"] > 0
    assert "<svg" in page.read_text()


@pytest.mark.parametrize(
    "words", [["audit", "--steps", "2"], ["forecast", "sdxl"], ["doctor"], ["--help"]]
)
def test_the_base_alone_runs_what_needs_no_extra(base_python: Path, words: list[str]) -> None:
    completed = run_alone(base_python, str(base_python.with_name("halftime")), *words)
    assert completed.returncode == 0, completed.stderr


def test_an_extra_that_is_missing_is_named(base_python: Path) -> None:
    completed = run_alone(
        base_python, str(base_python.with_name("halftime")), "gateway", "mock", "--port", "0"
    )
    assert completed.returncode == 2
    assert f"{base_python.name} -m pip install 'halftime[gateway]'" in completed.stderr
