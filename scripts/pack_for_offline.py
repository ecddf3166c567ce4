"""Pack what `make gpu-evidence` needs beside torch, transformers and accelerate, for a machine
without a network.

Wheels of halftime and of its small dependencies, in the versions that are installed here, and the
sources of the benchmarks and tests, in one archive of at most 64 MiB. On the other machine:

    tar xf halftime-offline.tar && cd halftime-offline && sh install.sh
    python -m benchmarks.gpu.evidence --budget 8m

    python scripts/pack_for_offline.py [--python 3.12] [--platform manylinux_2_28_x86_64]
        [--out out/halftime-offline.tar]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MOST_BYTES = 64 * 2**20
NAME = "halftime-offline"
# What the machine has, with all that these need themselves.
THERE = ("torch", "transformers", "accelerate")
EXTRAS = ("serve",)
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")  # for the tests marked gpu
SOURCES = ("benchmarks", "tests", "scripts", "pyproject.toml", "Makefile", "README.md", "docs")
NOT_SOURCES = ("benchmarks/results", "benchmarks/captions/log.jsonl.gz", "docs/assets")
INSTALL = """#!/bin/sh
# Into the Python that `python` is, from this folder alone. What is there already stays as it is.
set -e
cd "$(dirname "$0")"
${PYTHON:-python} -m pip install --no-index --no-deps --find-links wheels wheels/*.whl
"""


def needed(
    names: Iterable[str], extras: Sequence[str] = (), environment: dict[str, str] | None = None
) -> dict[str, str]:
    """The installed packages that these need, themselves included: name -> version."""
    versions: dict[str, str] = {}
    todo = [(canonicalize_name(name), tuple(extras)) for name in names]
    seen = set(todo)
    while todo:
        name, wanted = todo.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        versions[name] = distribution.version
        for line in distribution.requires or ():
            requirement = Requirement(line)
            child = canonicalize_name(requirement.name)
            entry = (child, tuple(requirement.extras))
            if entry not in seen and _holds(requirement, wanted, environment):
                seen.add(entry)
                todo.append(entry)
    return versions


def _holds(
    requirement: Requirement, extras: Sequence[str], environment: dict[str, str] | None
) -> bool:
    if requirement.marker is None:
        return True
    return any(
        requirement.marker.evaluate((environment or {}) | {"extra": extra})
        for extra in (*extras, "")
    )


def to_pack(environment: dict[str, str] | None = None) -> list[str]:
    """Requirements as pip downloads them: halftime's own closure without what is there."""
    ours = needed(["halftime"], EXTRAS, environment) | needed(TOOLS, environment=environment)
    there = needed(THERE, environment=environment)
    return sorted(
        f"{name}=={version.partition('+')[0]}"
        for name, version in ours.items()
        if name not in there and name != "halftime"
    )


def pip(*arguments: str) -> None:
    """Run pip. Raises SystemExit with what it said."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"pip {' '.join(arguments[:2])} failed: {ended.stderr.strip()[-800:]}")


def download(folder: Path, python: str, platform: str) -> None:
    """The wheels of all that is to be packed, for that Python on that platform."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    older = [platform, "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64"]
    platforms = [option for name in dict.fromkeys(older) for option in ("--platform", name)]
    target = ["--python-version", python, "--implementation", "cp", *platforms]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    pip("download", "--quiet", *options, *target, *to_pack(environment))


def own_wheel(folder: Path) -> None:
    """halftime itself, of this checkout."""
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))


def sources(folder: Path) -> None:
    """The files that git knows, of what the evidence runs."""
    listing = subprocess.run(
        ["git", "ls-files", "--", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.splitlines():
        if not name.startswith(NOT_SOURCES):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def archive(folder: Path, out: Path) -> int:
    """One archive of a folder; its bytes. Raises SystemExit where it is larger than allowed, with
    the largest files."""
    (folder / "install.sh").write_text(INSTALL, encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz") as tar:
        tar.add(folder, NAME)
    size = out.stat().st_size
    if size > MOST_BYTES:
        largest = sorted(folder.rglob("*"), key=lambda path: -path.stat().st_size)[:8]
        names = ", ".join(f"{path.name} {path.stat().st_size / 2**20:.1f}" for path in largest)
        raise SystemExit(
            f"{out} has {size / 2**20:.1f} MiB, and {MOST_BYTES / 2**20:.0f} are allowed. The "
            f"largest files, in MiB: {names}. Leave one out in {__file__}."
        )
    return size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64")
    parser.add_argument("--out", type=Path, default=Path("out") / f"{NAME}.tar")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / NAME
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        own_wheel(wheels)
        download(wheels, options.python, options.platform)
        sources(folder)
        count = len(list(wheels.glob("*.whl")))
        size = archive(folder, options.out)
    print(f"wrote {options.out}: {count} wheels and the sources, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
