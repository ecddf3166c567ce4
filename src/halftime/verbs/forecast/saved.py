"""Saved calibrations: one per GPU, in the user's data folder, used by later forecasts for it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from halftime.base.errors import BadInput
from halftime.base.store import read_json
from halftime.records.forecast import Calibration
from halftime.records.gpus import gpu_named
from halftime.verbs.forecast.predict import Effects, Machine

# Instead of a calibration: use none, even if one is saved.
NONE = "none"


def saved_path(gpu: str) -> Path:
    """Where a GPU's calibration is saved: `$XDG_DATA_HOME/halftime/calibrations/GPU.json`."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "halftime" / "calibrations" / f"{gpu.replace(' ', '-')}.json"


def calibration_of(source: Calibration | Path | str | None, gpu: str) -> Calibration | None:
    """The calibration to use. Raises BadInput where it is of another GPU."""
    name = gpu_named(gpu).name
    if source is None and saved_path(name).is_file():
        source = saved_path(name)
    if source is None or source == NONE:
        return None
    calibration = source if isinstance(source, Calibration) else read_json(source, Calibration)
    if calibration.gpu != name:
        raise BadInput(
            f"the calibration is for the {calibration.gpu}; the forecast is for the {name}. Give "
            f"--gpu {calibration.gpu}."
        )
    return calibration


def machine_after(machine: Machine, calibration: Calibration | None) -> Machine:
    """The machine with a calibration, or as it was."""
    if calibration is None:
        return machine
    return machine._replace(
        effects=Effects(calibration.compute, calibration.memory, calibration.host),
        covariance=np.array(calibration.covariance),
        calibrated_on=calibration.source,
    )
