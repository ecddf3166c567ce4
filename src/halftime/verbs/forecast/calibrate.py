"""Learn one machine's factors from what was measured on it: a maximum a posteriori step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from halftime.verbs.forecast.constants import Constants
from halftime.verbs.forecast.predict import Effects, Machine, gradient, total_seconds
from halftime.verbs.forecast.rows import MeasuredRow, works_of

Seconds = Callable[[Effects], float]
ITERATIONS = 5


def calibrated_by(machine: Machine, rows: Sequence[MeasuredRow]) -> Machine:
    """The machine after some measured rows of it, all from one host."""
    observations = [(_seconds_of(row, machine), row.seconds) for row in rows]
    return calibrated(
        machine, observations, f"{len(rows)} measured row{'s' * (len(rows) > 1)}: {rows[0].id}"
    )


def _seconds_of(row: MeasuredRow, machine: Machine) -> Seconds:
    works = works_of(row)
    return lambda effects: total_seconds(works, machine.gpu, machine.constants, effects)


def calibrated(
    machine: Machine, observations: Sequence[tuple[Seconds, float]], source: str
) -> Machine:
    """The machine after observations: pairs of a forecast as a function of the effects, and the
    seconds measured.

    Gauss-Newton on the logarithms: prior from `machine`, noise from the spread between sources and
    model families.
    """
    noise = machine.constants.source**2 + machine.constants.family**2
    prior, at = machine.covariance, Effects()
    measured = np.array([math.log(seconds) for _, seconds in observations])
    gain = slopes = np.zeros((3, len(observations)))
    for _ in range(ITERATIONS):
        forecast = np.array([math.log(function(at)) for function, _ in observations])
        slopes = np.array([gradient(function, at) for function, _ in observations]).reshape(-1, 3)
        gain = (
            prior
            @ slopes.T
            @ np.linalg.inv(slopes @ prior @ slopes.T + noise * np.eye(len(observations)))
        )
        at = Effects(*map(float, gain @ (measured - forecast + slopes @ np.array(at))))
    covariance = prior - gain @ slopes @ prior
    return machine._replace(effects=at, covariance=covariance, calibrated_on=source)


def forget_host(machine: Machine, constants: Constants) -> Machine:
    """The same GPU beside another host: what was learnt of the host does not carry over."""
    covariance = machine.covariance.copy()
    covariance[2, :] = covariance[:, 2] = 0.0
    covariance[2, 2] = constants.host**2
    return machine._replace(effects=machine.effects._replace(host=0.0), covariance=covariance)
