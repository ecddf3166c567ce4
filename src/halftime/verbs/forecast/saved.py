"""Calibrations that were kept: one a GPU, in the user's data folder, used by later forecasts for
that GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from halftime.base.errors import BadInput
from halftime.base.store import read_json
from halftime.records.forecast import Calibration
from halftime.verbs.forecast.gpus import gpu_named
from halftime.verbs.forecast.predict import Effects, Machine

# Given instead of a calibration: use none, even if one is saved.
NONE = "none"


def saved_path(gpu: str) -> Path:
    """Where a GPU's calibration is kept: `$XDG_DATA_HOME/halftime/calibrations/GPU.json`."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "halftime" / "calibrations" / f"{gpu.replace(' ', '-')}.json"


def calibration_of(given: Calibration | Path | str | None, gpu: str) -> Calibration | None:
    """The calibration to use. Raises BadInput where it is of another GPU."""
    name = gpu_named(gpu).name
    if isinstance(given, Calibration):
        found = given
    elif given == NONE:
        return None
    elif given is not None:
        found = read_json(given, Calibration)
    elif saved_path(name).is_file():
        found = read_json(saved_path(name), Calibration)
    else:
        return None
    if found.gpu != name:
        raise BadInput(
            f"the calibration is of the {found.gpu}; the forecast is for the {name}. Give "
            f"--gpu {found.gpu}."
        )
    return found


def machine_after(machine: Machine, calibration: Calibration | None) -> Machine:
    """The machine with a calibration, or as it was."""
    if calibration is None:
        return machine
    return machine._replace(
        effects=Effects(calibration.compute, calibration.memory, calibration.host),
        covariance=np.array(calibration.covariance),
        calibrated_on=calibration.source,
    )
