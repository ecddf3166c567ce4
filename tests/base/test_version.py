"""A record names the release, and in a checkout the commit, and whether what is measured was
changed since."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import halftime
from halftime.base.version import version


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in halftime's place; what was found for it is forgotten afterwards."""
    monkeypatch.setattr("halftime.base.version._ROOT", tmp_path)
    version.cache_clear()
    yield tmp_path
    version.cache_clear()


def git(root: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@t")
    return subprocess.run(
        ["git", *names, *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(root: Path) -> Path:
    for name in ("src/a.py", "docs/a.md"):
        (root / name).parent.mkdir()
        (root / name).write_text("")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "one")
    return root


def test_a_checkout_names_its_commit(checkout: Path) -> None:
    (checkout / "docs" / "a.md").write_text("changes no measurement")
    assert (
        version() == f"{halftime.__version__}+g{git(checkout, 'rev-parse', '--short=12', 'HEAD')}"
    )


def test_changed_sources_are_said(checkout: Path) -> None:
    (checkout / "src" / "a.py").write_text("x = 1\n")
    assert version().endswith(".dirty")


def test_an_installed_package_is_its_release_even_inside_somebody_elses_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halftime.base.version._ROOT", checkout / "src")
    assert version() == halftime.__version__


def test_without_git_it_is_the_release(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert version() == halftime.__version__
