"""Whether two sessions may be compared."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from halftime.base.errors import Unlike
from halftime.pipeline.inputs import described
from halftime.records import Session, Workload
from halftime.records.workload import FILES


def differences(baseline: Session, candidate: Session) -> dict[str, tuple[str, str]]:
    """Field of the workload or environment -> both values, where timings cannot be compared."""
    left, right = _identity(baseline), _identity(candidate)
    return {
        name: (left.get(name, "not set"), right.get(name, "not set"))
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    }


def _identity(session: Session) -> dict[str, str]:
    """Of files that went in, what was in them, wherever they lay."""
    contents = session.workload.contents
    device = session.workload.device or session.environment.device
    workload = {
        f"workload.{name}": repr(value)
        for name, value in {**msgspec.to_builtins(session.workload), "device": device}.items()
        if name not in (*FILES, "contents", "arguments")
    }
    arguments = {
        f"workload.arguments.{name}": repr(value)
        for name, value in {**session.workload.arguments, **contents}.items()
    }
    environment = {
        f"environment.{name}": value for name, value in session.environment.identity().items()
    }
    return {"pipeline": session.pipeline, **workload, **arguments, **environment}


def checked_alike(baseline: Session, candidate: Session) -> None:
    """Raise Unlike, naming every field that differs."""
    _refuse(differences(baseline, candidate))


def checked_workload(baseline: Session, workload: Workload) -> None:
    """As `checked_alike` for what is known before anything is measured; a device that nobody named
    is known once the pipeline is loaded."""
    expected = msgspec.structs.replace(baseline, workload=described(workload))
    _refuse(differences(baseline, expected))


def _refuse(fields: Mapping[str, tuple[str, str]]) -> None:
    if not fields:
        return
    listed = "; ".join(
        f"{name} is {left} in one and {right} in the other"
        for name, (left, right) in fields.items()
    )
    fix = (
        " A dtype is a fix, not a workload: profile with --recipe PLAN.toml instead (docs/fix.md)."
    )
    raise Unlike(
        f"these sessions must not be compared: {listed}. Measure both on one machine with "
        f"one workload.{fix if 'workload.dtype' in fields else ''}"
    )
