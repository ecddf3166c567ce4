"""Which versions `make matrix` tested, and where a user's own are beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import Version

from halftime.records.doctor import TestedVersion

# Written by scripts/matrix.py: an environment's versions, and the checks that failed in it.
TABLE = Path(__file__).parent / "tested.json"
PACKAGES = ("python", "torch", "diffusers", "transformers", "accelerate", "peft")


def beside_tested(installed: Mapping[str, str]) -> Iterator[TestedVersion]:
    """Each installed package of PACKAGES, and whether its version was tested.

    A version is its public part: '2.11.0+cu130' is 2.11.0. Pythons are compared by their minor
    version.
    """
    environments = json.loads(TABLE.read_text(encoding="utf-8"))
    for package in PACKAGES:
        if package in installed:
            versions = {
                _comparable(package, row["versions"][package])
                for row in environments
                if package in row["versions"]
            }
            own = _comparable(package, installed[package])
            yield TestedVersion(
                package=package,
                version=installed[package],
                tested=own in versions,
                says=_says(own, sorted(versions)),
            )


def _comparable(package: str, version: str) -> Version:
    release = Version(Version(version).public)
    return Version(f"{release.major}.{release.minor}") if package == "python" else release


def _says(own: Version, versions: list[Version]) -> str:
    """'tested', or between which tested versions it is."""
    if not versions:
        return "not tested"
    if own in versions:
        return "tested"
    if own < versions[0]:
        return f"older than {versions[0]}, the oldest that was tested"
    if own > versions[-1]:
        return f"newer than {versions[-1]}, the newest that was tested"
    below = max(version for version in versions if version < own)
    above = min(version for version in versions if version > own)
    return f"not tested itself; {below} and {above} were"
