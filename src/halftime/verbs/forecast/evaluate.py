"""Forecasts against measurements: errors by row, kind, GPU and family, ordering, and the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from halftime.base.errors import BadInput
from halftime.base.stats import median, quantile
from halftime.records.forecast import ErrorSummary, EvaluationReport, RowRefused, RowResult
from halftime.records.gpus import find_gpu
from halftime.verbs.forecast.calibrate import calibrated_by, forget_host
from halftime.verbs.forecast.constants import Constants, shipped
from halftime.verbs.forecast.floor import floor_seconds
from halftime.verbs.forecast.predict import (
    Z90,
    Effects,
    Machine,
    StageWork,
    doubt_of,
    gradient,
    spread,
    total_seconds,
    uncalibrated,
)
from halftime.verbs.forecast.rows import MeasuredRow, Unreadable, read_rows, works_of

Calibrate = Literal["none", "one-per-gpu"]
# Independent sources of equal configurations lie this far apart: closer pairs have no known order.
NOISE = 0.13


def banded(works: Sequence[StageWork], machine: Machine) -> tuple[float, float, float]:
    """Seconds of some work, with the 90 % band."""

    def seconds(effects: Effects) -> float:
        return total_seconds(works, machine.gpu, machine.constants, effects)

    value = seconds(machine.effects)
    slope = gradient(seconds, machine.effects)
    factor = math.exp(Z90 * spread(slope, machine, doubt_of(works)))
    return value, value / factor, value * factor


def evaluate(
    path: Path | str, calibrate: Calibrate = "none", constants: Constants | None = None
) -> EvaluationReport:
    """Evaluate a file of measured rows.

    With 'one-per-gpu' the first row of each GPU only calibrates.
    """
    rows, unreadable = read_rows(path)
    return evaluated(rows, unreadable, calibrate, constants or shipped())


def evaluated(
    rows: Sequence[MeasuredRow],
    unreadable: Sequence[Unreadable],
    calibrate: Calibrate,
    constants: Constants,
) -> EvaluationReport:
    """As `evaluate`, of rows that were read."""
    machines: dict[str, Machine] = {}
    first: dict[str, MeasuredRow] = {}
    results: list[RowResult] = []
    refused = [
        RowRefused(id=row.id, gpu=row.gpu, kind=row.kind, reason=row.reason) for row in unreadable
    ]
    for row in rows:
        gpu = find_gpu(row.gpu)
        if gpu is None:
            refused.append(
                RowRefused(
                    id=row.id, gpu=row.gpu, kind=row.kind, reason=f"GPU {row.gpu!r} is not known"
                )
            )
            continue
        try:
            fresh = gpu.name not in machines
            if fresh:
                machine = uncalibrated(gpu, constants)
                machines[gpu.name] = (
                    calibrated_by(machine, [row]) if calibrate == "one-per-gpu" else machine
                )
                first[gpu.name] = row
            machine = _beside(machines[gpu.name], first[gpu.name], row, calibrate, constants)
            results.append(
                _result(row, machine, only_calibrates=fresh and calibrate == "one-per-gpu")
            )
        except (BadInput, RuntimeError, ValueError, TypeError, AttributeError) as error:
            # A component that cannot be traced at this size, or by this diffusers, is listed and
            # never fatal.
            machines.pop(gpu.name, None) if fresh else None
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            refused.append(RowRefused(id=row.id, gpu=row.gpu, kind=row.kind, reason=reason))
    return _report(results, refused, calibrate, constants)


def _beside(
    machine: Machine,
    first: MeasuredRow,
    row: MeasuredRow,
    calibrate: Calibrate,
    constants: Constants,
) -> Machine:
    return (
        forget_host(machine, constants)
        if calibrate == "one-per-gpu" and row.host != first.host
        else machine
    )


def _result(row: MeasuredRow, machine: Machine, *, only_calibrates: bool) -> RowResult:
    works = works_of(row)
    seconds, low, high = banded(works, machine)
    return RowResult(
        id=row.id,
        gpu=machine.gpu.name,
        kind=row.kind,
        family=row.family,
        measured_seconds=row.seconds,
        forecast_seconds=seconds,
        low=low,
        high=high,
        floor_seconds=floor_seconds(works, machine.gpu),
        error=None if only_calibrates else seconds / row.seconds - 1,
    )


def _report(
    results: list[RowResult], refused: list[RowRefused], calibrate: Calibrate, constants: Constants
) -> EvaluationReport:
    scored = [row for row in results if row.error is not None]
    right, pairs = _ordering(scored, 0.0)
    clear_right, clear_pairs = _ordering(scored, NOISE)
    return EvaluationReport(
        calibrate=calibrate,
        fitted_on=constants.fitted_on,
        overall=_summary("all", scored) if scored else None,
        by_kind=_by(scored, lambda row: row.kind),
        by_gpu=_by(scored, lambda row: row.gpu),
        by_family=_by(scored, lambda row: row.family),
        ordering=right / pairs if pairs else None,
        ordering_pairs=pairs,
        ordering_clear=clear_right / clear_pairs if clear_pairs else None,
        floor_above_measurement=sum(row.floor_seconds > row.measured_seconds for row in results),
        calibration_rows=tuple(row.id for row in results if row.error is None),
        rows=tuple(results),
        not_evaluated=tuple(refused),
    )


def _by(rows: list[RowResult], name: Callable[[RowResult], str]) -> tuple[ErrorSummary, ...]:
    groups: dict[str, list[RowResult]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return tuple(_summary(group, members) for group, members in sorted(groups.items()))


def _summary(group: str, rows: Sequence[RowResult]) -> ErrorSummary:
    errors = [row.error for row in rows if row.error is not None]
    sizes = [abs(error) for error in errors]
    inside = sum(row.low <= row.measured_seconds <= row.high for row in rows)
    return ErrorSummary(
        group=group,
        rows=len(rows),
        median=median(sizes),
        p90=quantile(sizes, 0.9),
        bias=median(errors),
        within_band=inside / len(rows),
    )


def _ordering(rows: Sequence[RowResult], apart: float) -> tuple[int, int]:
    """Pairs of rows on one GPU that the forecast puts in the measured order, and all such pairs."""
    in_order = pairs = 0
    for left, right in combinations(rows, 2):
        fastest, slowest = sorted((left.measured_seconds, right.measured_seconds))
        if left.gpu == right.gpu and slowest / fastest > 1 + apart:
            pairs += 1
            in_order += (left.measured_seconds < right.measured_seconds) == (
                left.forecast_seconds < right.forecast_seconds
            )
    return in_order, pairs
