"""`captions` from Python: calibrate a router."""

from __future__ import annotations

from pathlib import Path

from halftime.records.captions import CaptionsResult
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate
from halftime.verbs.captions.log import read_log


def captions(log: str | Path, settings: CalibrationSettings | None = None) -> CaptionsResult:
    """Calibrate a router from a log of requests that both models answered.

    Raises BadFile for a log that cannot be read, BadInput for one that is too small, MissingExtra
    without `halftime[captions]`.
    """
    return calibrate(read_log(log), settings or CalibrationSettings())
