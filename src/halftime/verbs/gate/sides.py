"""Who is compared: what `--against` may name, and where a side's processes run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from packaging.requirements import InvalidRequirement, Requirement

import halftime
from halftime.base.errors import BadFile, BadInput, HalftimeError
from halftime.base.store import read_report
from halftime.base.version import git_environment, git_output
from halftime.records.gate import Gate, SideKind

_OWN_WORKER = Path("halftime") / "verbs" / "gate" / "worker.py"
ALLOWED = (
    "a git revision (main, HEAD~3, v1.2), an environment (its folder or its bin/python), a recipe "
    "(.toml), requirements ('diffusers==0.41.*', or a .txt), the --json of a gate for its "
    "counters, or 'baseline' for the pipeline without a recipe"
)


@dataclass(frozen=True)
class Side:
    """Where and with what one side's processes run."""

    label: str
    kind: SideKind = "here"
    python: str = sys.executable
    folder: Path = field(default_factory=Path.cwd)
    paths: tuple[str, ...] = ()  # PYTHONPATH
    recipe: str | None = None
    commit: str = ""
    stored: Gate | None = None  # where nothing is run
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def created(self) -> str:
        """When a stored one was measured; '' for one that runs now."""
        return self.stored.created if self.stored else ""

    def environment(self) -> dict[str, str]:
        """The variables of its processes. Idle threads sleep, for all share the machine."""
        return {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(self.paths),
            **self.variables,
        }


def here(recipe: str | None = None) -> Side:
    """The candidate: this checkout in this environment, with a recipe or without. Raises BadInput
    for a recipe that cannot be applied."""
    if recipe:
        recipe = _with_plan(Path(recipe)).recipe
    label = Path(recipe).name if recipe else "here"
    commit = git_output("rev-parse", "HEAD")
    dirty = (
        " and uncommitted changes" if commit and git_output("status", "--porcelain", "-uno") else ""
    )
    if commit:
        label = f"{label} ({commit[:10]}{dirty})"
    return Side(label, "here", paths=_search_path(), recipe=recipe, commit=commit)


@contextmanager
def side_of(against: str, model: str | None = None) -> Iterator[Side]:
    """The side that `against` names, for as long as it is needed. Raises BadInput where it is
    nothing that can be run here."""
    path = Path(against)
    if against == "baseline":
        yield Side("baseline", "baseline", paths=_search_path())
    elif path.suffix == ".toml":
        yield _with_plan(path)
    elif path.suffix in _STORED:
        yield _with_stored(path)
    elif python := _python_of(path):
        with _instrument() as folder:
            yield Side(against, "environment", python=python, paths=(folder,))
    elif path.suffix == ".txt" or requirement_of(against):
        yield _with_requirement(against)
    elif commit := git_output("rev-parse", "--verify", "--quiet", f"{against}^{{commit}}"):
        with _worktree(against, commit, model) as side:
            yield side
    else:
        raise BadInput(_why_nothing(against))


_STORED = (".json", ".html")


def _with_stored(path: Path) -> Side:
    """A gate of before, for its counters."""
    _existing(path)
    try:
        record = read_report(path, Gate)
    except BadFile as error:
        raise BadInput(_why_no_session(str(path))) from error
    return Side(str(path), "stored", stored=record)


def _why_no_session(against: str) -> str:
    return (
        f"--against {against}: a stored session is one process of another hour. Processes of the "
        "same code differ by several per cent, so a gate could not tell a slower version from a "
        "slower moment. Name the revision, the environment or the recipe that it was measured "
        f"with; for a look at both, halftime profile --against {against}."
    )


def _why_nothing(against: str) -> str:
    if Path(against).is_dir():
        return (
            f"--against {against} is a folder without bin/python, so it is no environment. A "
            "model's folder is the argument, and not the base."
        )
    no_repository = (
        "" if git_output("rev-parse", "--git-dir") else ", and here is no git repository"
    )
    return (
        f"--against {against!r} names nothing that can run here{no_repository}{shallow()}. It may "
        f"be {ALLOWED}."
    )


def shallow() -> str:
    """What is said of a clone without its past, in which revisions are missing."""
    if git_output("rev-parse", "--is-shallow-repository") != "true":
        return ""
    return " (this clone is shallow: `git fetch --unshallow`, or fetch-depth: 0 in CI)"


def _with_plan(path: Path) -> Side:
    """The pipeline with a recipe's fixes; an unknown fix is refused before anything starts."""
    from halftime.fix.apply import choose, read_plan

    choose(read_plan(_existing(path)))
    return Side(path.name, "recipe", paths=_search_path(), recipe=str(path.resolve()))


def alike(base: Side, candidate: Side) -> Side:
    """The base with the candidate's recipe, where another version of the same is compared; a recipe
    or the baseline is a base for what it is."""
    if base.kind in ("revision", "environment", "requirement"):
        return replace(base, recipe=candidate.recipe)
    return base


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"there is no file {path}.")
    return path.resolve()


def _search_path() -> tuple[str, ...]:
    return tuple(path for path in sys.path if path)


# ---- an environment


def _python_of(path: Path) -> str:
    """The interpreter of an environment's folder, or the path itself where it is one; else ''."""
    names = ("bin/python", "Scripts/python.exe", "python", "python.exe", "")
    for candidate in (path / name for name in names):
        if candidate.is_file() and os.access(candidate, os.X_OK) and "python" in candidate.name:
            return str(candidate.absolute())  # not resolved: a link is what makes it that one
    return ""


@contextmanager
def _instrument() -> Iterator[str]:
    """A folder that holds this halftime and nothing else, for another environment's search path:
    both sides are measured by the same instrument."""
    with TemporaryDirectory(prefix="halftime-gate-") as folder:
        (Path(folder) / "halftime").symlink_to(Path(halftime.__file__).parent)
        yield folder


# ---- requirements


def requirement_of(text: str) -> Requirement | None:
    """What a text asks of a package, where it names one and a range."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    return requirement if requirement.specifier else None


def _with_requirement(against: str) -> Side:
    """The same environment with these packages before its own; without what they need in turn,
    which would bring another torch along."""
    folder = _cache() / hashlib.sha256(_requirement_text(against).encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".installing-", dir=folder.parent) as temporary:
            _install(against, Path(temporary) / "packages")
            with contextlib.suppress(OSError):  # somebody else was first
                (Path(temporary) / "packages").rename(folder)
    return Side(against, "requirement", paths=(str(folder), *_search_path()))


def _install(against: str, folder: Path) -> None:
    packages = ["-r", against] if against.endswith(".txt") else [against]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    completed = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(folder), *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        last = (completed.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise HalftimeError(
            f"pip cannot install {against}: {last}. An environment that has it can be named "
            "instead, by its folder."
        )


def check_version(side: Side, facts: Mapping[str, str]) -> None:
    """Raises HalftimeError where a side's process has another version than its requirement says:
    something on its search path was before it."""
    requirement = requirement_of(side.label) if side.kind == "requirement" else None
    if requirement is None:
        return
    versions = [facts.get(f"{kind}.{requirement.name}") for kind in ("versions", "packages")]
    version = next(filter(None, versions), None)
    if version and not requirement.specifier.contains(version, prereleases=True):
        raise HalftimeError(
            f"{side.label} was asked for, and its process runs {requirement.name} {version}: "
            "something on the search path comes before it. Name an environment that has it."
        )


def _requirement_text(against: str) -> str:
    text = _existing(Path(against)).read_text() if against.endswith(".txt") else against
    return f"{sys.version_info[:2]} {text}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halftime" / "gate"


# ---- a revision


@contextmanager
def _worktree(against: str, commit: str, model: str | None) -> Iterator[Side]:
    """The repository of the current folder at a revision, in a worktree of its own that goes when
    it is no longer needed."""
    root = Path(git_output("rev-parse", "--show-toplevel")).resolve()
    with (
        _ended_in_order(),
        TemporaryDirectory(prefix="halftime-gate-") as temporary,
        ExitStack() as stack,
    ):
        tree = Path(temporary) / root.name
        _check_out(root, tree, commit, against, stack)
        side = Side(
            commit[:10] if commit.startswith(against) else f"{against} ({commit[:10]})",
            "revision",
            folder=tree / Path.cwd().relative_to(root),
            paths=moved(_search_path(), root, tree),
            commit=commit,
        )
        _check_revision(side, against, root, model)
        yield side


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A command that is told to end, as CI does, is interrupted, so that no worktree is left."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # somebody else sees to it
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_out(root: Path, tree: Path, commit: str, against: str, stack: ExitStack) -> None:
    """A worktree of the repository at `root`, with those submodules that are checked out there."""
    completed = subprocess.run(
        ["git", "worktree", "add", "--quiet", "--detach", str(tree), commit],
        cwd=root,
        env=git_environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise HalftimeError(f"git cannot check out {against}: {completed.stderr.strip()}")
    stack.callback(git_output, "worktree", "remove", "--force", str(tree), folder=root)
    for submodule, pinned in _submodules(tree):
        if (root / submodule / ".git").exists():
            name = f"the submodule {submodule} of {against} ({pinned[:10]})"
            _check_out(root / submodule, tree / submodule, pinned, name, stack)


def _submodules(tree: Path) -> Iterator[tuple[str, str]]:
    """Path and commit of each submodule that a worktree has a place for."""
    if (tree / ".gitmodules").is_file():
        for row in git_output("ls-tree", "-r", "-z", "HEAD", folder=tree).split("\0"):
            facts, _, path = row.partition("\t")
            if facts.startswith("160000 "):
                yield path, facts.split()[2]


def moved(paths: Sequence[str], root: Path, tree: Path) -> tuple[str, ...]:
    """A search path with what lies in the repository replaced by the same in the worktree; an
    environment inside of the repository (.venv) stays where it is."""
    return tuple(
        path if (inside := _inside(Path(path), root)) is None else str(tree / inside)
        for path in paths
    )


def _inside(path: Path, root: Path) -> Path | None:
    """Where a path lies in the repository, links followed; None for what is not its own code."""
    own = path if path.is_relative_to(root) else path.resolve()
    if not own.is_relative_to(root) or _is_installed(path):
        return None
    return own.relative_to(root)


def _check_revision(side: Side, against: str, root: Path, model: str | None) -> None:
    """Raises BadInput where the revision cannot run, before anything is measured."""
    if not side.folder.is_dir():
        raise BadInput(f"{against} has no folder {Path.cwd().relative_to(root)}.")
    relative = model is not None and Path(model).exists() and not Path(model).is_absolute()
    if relative and not (side.folder / str(model)).exists():
        raise BadInput(
            f"{model} is not in {against}: git does not know it there. Name it by its absolute "
            "path where both sides shall load the same files."
        )
    if not relative and not _runs_from(root, side, model):
        raise BadInput(
            f"nothing that would run comes from this repository, so {against} would be the same: "
            f"{model or 'the bundled model'} and the packages that it uses lie elsewhere. Name an "
            "environment or requirements instead, or a model of this repository."
        )
    own = _inside(Path(halftime.__file__).parent.parent, root)
    if own is not None and not (root_in(side, root / own, root) / _OWN_WORKER).is_file():
        raise BadInput(
            f"{against} is a revision of halftime itself from before it had `gate`, so it "
            "cannot be measured there. Install it into an environment and name that."
        )


def _runs_from(root: Path, side: Side, model: str | None) -> bool:
    """Whether a package that the search path names, or the function's module, is the
    repository's."""
    folders = (_inside(Path(path), root) for path in _search_path())
    if any(own is not None and root / own != Path.cwd() for own in folders):
        return True
    module = (model or "").partition(":")[0].partition(".")[0]
    here = Path.cwd()
    return (
        bool(module)
        and ":" in (model or "")
        and ((here / module).is_dir() or (here / f"{module}.py").is_file())
    )


def _is_installed(path: Path) -> bool:
    return "site-packages" in path.parts


def root_in(side: Side, own: Path, root: Path) -> Path:
    """Where the worktree of a side has what the repository has at `own`."""
    depth = len(Path.cwd().relative_to(root).parts)
    tree = side.folder.parents[depth - 1] if depth else side.folder
    return tree / own.relative_to(root)
