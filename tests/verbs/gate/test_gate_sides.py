"""What `--against` may name, and what is refused by name before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadFile, BadInput, HalftimeError
from halftime.records.gate import SideKind
from halftime.verbs.gate import sides
from halftime.verbs.gate.process import _hint
from halftime.verbs.gate.sides import Side, alike, check_version, here, moved, side_of


def git(*words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of a repository whose `mine.py` and `model/` the second one changes and adds."""
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    monkeypatch.chdir(root)
    git("init", "-q", "-b", "main")
    (root / "mine.py").write_text("speed = 1\n")
    (root / "sub" / "kept.txt").touch()
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (root / "mine.py").write_text("speed = 2\n")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text("{}")
    git("add", ".")
    git("commit", "-q", "-m", "second")
    return root


def test_a_revision_is_a_worktree_that_goes_again(repository: Path) -> None:
    with side_of("HEAD~1", "mine:make") as side:
        assert (side.kind, side.python) == ("revision", sys.executable)
        assert side.label == f"HEAD~1 ({git('rev-parse', 'HEAD~1')[:10]})"
        assert (side.folder / "mine.py").read_text() == "speed = 1\n"
        assert len(git("worktree", "list").splitlines()) == 2
    assert not side.folder.exists()
    assert len(git("worktree", "list").splitlines()) == 1
    assert (repository / "mine.py").read_text() == "speed = 2\n"


def test_a_revision_is_entered_in_the_same_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "sub")
    monkeypatch.setattr(sys, "path", [str(repository / "sub"), str(repository), *sys.path])
    with side_of("HEAD~1", "mine:make") as side:
        assert (side.folder / "kept.txt").exists()
        tree = str(side.folder.parent)
        assert side.paths[:2] == (str(side.folder), tree)
        assert side.environment()["PYTHONPATH"].startswith(f"{side.folder}{os.pathsep}{tree}")


TOLD_TO_END = """
import signal
from halftime.verbs.gate.sides import side_of
try:
    with side_of("HEAD~1", "mine:make") as side:
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    print(side.folder.exists(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


def test_one_that_is_told_to_end_leaves_no_worktree(repository: Path) -> None:
    """In a process of its own: what other tests import may take signals."""
    command = [sys.executable, "-c", TOLD_TO_END]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["False", "True"], ended.stderr
    assert len(git("worktree", "list").splitlines()) == 1


def test_a_commit_that_is_being_made_stays_as_it_is(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git names to its hooks the index of the commit; a checkout elsewhere must not write there."""
    (repository / "mine.py").write_text("speed = 3\n")
    git("add", ".")
    before = git("write-tree")
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / ".git" / "index"))
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    with side_of("HEAD~1", "mine:make") as side:
        assert (side.folder / "mine.py").read_text() == "speed = 1\n"
    assert git("write-tree") == before
    assert len(git("worktree", "list").splitlines()) == 1


def test_a_submodule_is_there_at_its_own_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    monkeypatch.chdir(parent)
    git("init", "-q", "-b", "main")
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "lib")
    git("-C", "lib", "checkout", "-q", "HEAD~1")
    (parent / "entry.py").write_text("from lib import mine\n")
    git("add", ".")
    git("commit", "-q", "-m", "with the first")
    git("-C", "lib", "checkout", "-q", "main")
    git("commit", "-q", "-a", "-m", "with the second")
    with side_of("HEAD~1", "entry:make") as side:
        assert (side.folder / "lib" / "mine.py").read_text() == "speed = 1\n"
        assert not (side.folder / "lib" / "model").exists()
    assert len(git("worktree", "list").splitlines()) == 1
    assert len(git("-C", "lib", "worktree", "list").splitlines()) == 1
    assert (parent / "lib" / "mine.py").read_text() == "speed = 2\n"


def test_a_search_path_through_a_link_is_the_repositorys(tmp_path: Path) -> None:
    root, tree = tmp_path / "a", tmp_path / "b"
    (root / "src").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    assert moved([str(tmp_path / "link" / "src")], root, tree) == (str(tree / "src"),)


def test_a_clone_without_its_past_says_so(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(BadInput, match="this clone is shallow"), side_of("HEAD~1", "mine:make"):
        pass


def test_an_environment_inside_the_repository_stays(tmp_path: Path) -> None:
    root, tree = tmp_path / "a", tmp_path / "b"
    packages = str(root / ".venv" / "lib" / "site-packages")
    assert moved([str(root / "src"), packages, "/usr/lib"], root, tree) == (
        str(tree / "src"),
        packages,
        "/usr/lib",
    )


@pytest.mark.parametrize(
    ("against", "model", "message"),
    [
        ("nowhere", None, "names nothing that can run here. It may be a git revision"),
        ("HEAD~1", None, "nothing that would run comes from this repository"),
        ("HEAD~1", "owner/name", "owner/name and the packages that it uses lie elsewhere"),
        ("HEAD~1", "model", "model is not in HEAD~1: git does not know it there"),
        ("session.json", None, "a stored session is one process of another hour"),
        ("none.txt", None, "there is no file none.txt"),
        ("none.json", None, "there is no file none.json"),
        ("sub", None, "sub is a folder without bin/python"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    repository: Path, against: str, model: str | None, message: str
) -> None:
    Path("session.json").write_text('{"schema": 3}')
    with pytest.raises(BadInput, match=message), side_of(against, model):
        pass
    assert len(git("worktree", "list").splitlines()) == 1


def test_outside_a_repository_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BadInput, match="and here is no git repository"), side_of("main"):
        pass


def test_a_halftime_without_a_gate_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "src" / "halftime").mkdir(parents=True)
    monkeypatch.setattr(halftime, "__file__", str(repository / "src" / "halftime" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [str(repository / "src"), *sys.path])
    with pytest.raises(BadInput, match="from before it had `gate`"), side_of("HEAD~1"):
        pass


def test_a_recipe_and_the_baseline(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fixes]]\nname = "schedule-table"\n')
    with side_of(str(plan)) as side:
        assert (side.kind, side.recipe) == ("recipe", str(plan))
    with side_of("baseline") as side:
        assert (side.kind, side.recipe) == ("baseline", None)
    assert here(str(plan)).recipe == str(plan)


@pytest.mark.parametrize(
    ("kind", "recipe"), [("revision", "p.toml"), ("requirement", "p.toml"), ("baseline", None)]
)
def test_versions_get_the_same_recipe_and_the_baseline_none(
    kind: SideKind, recipe: str | None
) -> None:
    assert alike(Side("before", kind), Side("now", recipe="p.toml")).recipe == recipe


def test_a_recipe_with_an_unknown_fix_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fixes]]\nname = "magic"\n')
    with pytest.raises((BadInput, BadFile), match="magic"), side_of(str(plan)):
        pass
    with pytest.raises((BadInput, BadFile), match="magic"):
        here(str(plan))


@pytest.mark.parametrize("kind", ["environment", "revision"])
@pytest.mark.parametrize("last", ["ModuleNotFoundError: No module named 'x'", "Killed"])
def test_what_an_environment_lacks_is_said(kind: SideKind, last: str) -> None:
    hint = _hint(Side("other", kind, python="/other/bin/python"), last)
    lacks = kind == "environment" and last != "Killed"
    assert ("/other/bin/python -m pip install halftime" in hint) is lacks
    assert bool(hint) is lacks


def test_an_environments_bin_folder_is_it_too(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with side_of(str(tmp_path / "bin")) as side:
        assert side.python == str(tmp_path / "bin" / "python")


def test_an_environment_gets_this_instrument(tmp_path: Path) -> None:
    (tmp_path / "other" / "bin").mkdir(parents=True)
    (tmp_path / "other" / "bin" / "python").symlink_to(sys.executable)
    with side_of(str(tmp_path / "other")) as side:
        assert side.kind == "environment"
        assert side.python == str(tmp_path / "other" / "bin" / "python")  # the link, not its goal
        (folder,) = side.paths
        assert (Path(folder) / "halftime").resolve() == Path(halftime.__file__).parent
    assert not Path(folder).exists()


def test_requirements_are_installed_once_before_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def pip(command, **_):
        commands.append(command)
        target = Path(command[command.index("--target") + 1])
        (target / "diffusers").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sides.subprocess, "run", pip)
    for _ in range(2):
        with side_of("diffusers==0.41.*") as side:
            assert (side.kind, side.label) == ("requirement", "diffusers==0.41.*")
            assert (Path(side.paths[0]) / "diffusers").is_dir()
            assert side.paths[1:] == tuple(path for path in sys.path if path)
    (command,) = commands
    assert command[-1] == "diffusers==0.41.*"
    assert "--no-deps" in command


def test_what_pip_cannot_install_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "first\nERROR: no such version")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sides.subprocess, "run", pip)
    with pytest.raises(HalftimeError, match="ERROR: no such version"), side_of("diffusers==9"):
        pass
    assert not list((tmp_path / "halftime" / "gate").iterdir())


def test_the_version_that_runs_is_the_one_that_was_asked_for() -> None:
    side = Side("six==1.16", "requirement")
    check_version(side, {"packages.six": "1.16.0"})
    check_version(side, {})  # nobody knows
    check_version(Side("six==1.16", "revision"), {"packages.six": "1.17.0"})
    with pytest.raises(HalftimeError, match=r"its process runs six 1\.17\.0"):
        check_version(side, {"packages.six": "1.17.0"})
