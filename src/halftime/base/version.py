"""Which halftime this is: the release, and in a checkout the commit as well."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from halftime import __version__

# Of a checkout; of an installed package the folder that holds Python's library, which has no .git.
_ROOT = Path(__file__).parents[3]
_MEASURED = ("src", "benchmarks", "workshop")  # where a change can change a measurement


@cache
def version() -> str:
    """'0.1.0'; from a checkout '0.1.0+g1a2b3c4d5e6f', with '.dirty' where sources differ.

    A local version label after PEP 440, spelt as setuptools-scm spells it; '0.1.0' without git.
    """
    head = (
        git_output("rev-parse", "--short=12", "HEAD", folder=_ROOT)
        if (_ROOT / ".git").exists()
        else ""
    )
    if not head:
        return __version__
    status = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    changed = git_output(*status, "--", *_MEASURED, folder=_ROOT)
    return f"{__version__}+g{head}{'.dirty' if changed else ''}"


# What git tells its hooks about the index of a commit that is being made: a command about another
# tree would write into it.
_OF_A_HOOK = ("GIT_INDEX_FILE", "GIT_PREFIX")
_OF_A_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR")


def git_environment(folder: Path | None = None) -> dict[str, str]:
    """The variables for a git command; in a `folder` of its own, none names another repository."""
    left_out = {*_OF_A_HOOK, *(_OF_A_REPOSITORY if folder else ())}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def git_output(*words: str, folder: Path | None = None) -> str:
    """Standard output of a git command, '' where it fails, or where there is no git or no
    repository."""
    try:
        completed = subprocess.run(
            ["git", *words],
            cwd=folder,
            env=git_environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""
