"""Two sessions side by side, if they may be."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from halftime.base.errors import Unlike
from halftime.records import Session, Workload


def differences(base: Session, other: Session) -> dict[str, tuple[str, str]]:
    """Field -> both values, of workload and environment, where they differ in what makes timings
    incomparable."""
    one, two = _identity(base), _identity(other)
    return {
        name: (one.get(name, "not set"), two.get(name, "not set"))
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    }


def _identity(session: Session) -> dict[str, str]:
    workload = {
        f"workload.{name}": repr(value)
        for name, value in msgspec.to_builtins(session.workload).items()
    }
    place = {f"environment.{name}": value for name, value in session.environment.identity().items()}
    return {"pipeline": session.pipeline, **workload, **place}


def checked_alike(base: Session, other: Session) -> None:
    """Raise Unlike, naming every field that differs."""
    _refuse(differences(base, other))


def checked_workload(base: Session, workload: Workload) -> None:
    """As `checked_alike` for what is known before anything is measured."""
    _refuse(differences(base, msgspec.structs.replace(base, workload=workload)))


def _refuse(found: Mapping[str, tuple[str, str]]) -> None:
    if not found:
        return
    listed = "; ".join(
        f"{name} is {one} in one and {two} in the other" for name, (one, two) in found.items()
    )
    fix = (
        " A dtype is a fix, not a workload: profile with --recipe PLAN.toml instead (docs/fix.md)."
    )
    raise Unlike(
        f"these sessions must not be compared: {listed}. Measure both in one place with one "
        "workload."
        f"{fix if 'workload.dtype' in found else ''}"
    )
