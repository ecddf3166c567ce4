"""What to change about a pipeline (Plan), and a plan with its evidence (Recipe). Reading one
executes nothing."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Json, Record
from halftime.records.certificate import VisibleCertificate
from halftime.records.choice import Choice as Choice
from halftime.records.environment import Environment
from halftime.records.fixes import Level


# Schema history
# 1  2026-11  first
class Plan(Record, frozen=True, kw_only=True):
    """Fixes to apply; their order here means nothing, `halftime.fix.ORDER` decides."""

    schema: Literal[1] = 1
    fixes: tuple[Choice, ...] = ()


class Rung(Record, frozen=True, kw_only=True):
    """One step of the ablation ladder: what a fix was predicted to bring on top of the others, and
    what it brought.

    `predicted` and `observed` are speedups of the whole call over the baseline, stacked on the
    rungs before; `gain` is over the plan so far. `observed` None: it was not tried, `why` says so.
    """

    fix: str
    level: Level
    predicted: float | None = None
    observed: float | None = None
    observed_low: float | None = None  # bounds of the 95 % interval
    observed_high: float | None = None
    # speedup over the plan so far, paired in the same turns
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    kept: bool = False
    why: str = ""
    settings: dict[str, Json] = {}
    peak_bytes: int | None = None  # of the device, where --memory limits it


# Schema history
# 1  2026-11  first; later: certificate, with a default
class Recipe(Record, frozen=True, kw_only=True):
    """A plan that was found on one pipeline and machine, and what it brought there."""

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""  # ISO 8601, UTC
    model: str = ""
    pipeline: str = ""  # class name
    # component -> class and hash of its parameters' names and shapes
    architecture: dict[str, str] = {}
    fixes: tuple[Choice, ...] = ()
    environment: Environment | None = None
    workload_hash: str = ""
    baseline_seconds: float | None = None
    tuned_seconds: float | None = None
    speedup: float | None = None
    verdict: str | None = None
    # what the fixes were probed on: a hash of them, the architecture, the state and the software
    probed: str = ""
    ladder: tuple[Rung, ...] = ()
    # of approximate fixes: how many pictures differ visibly at most, and what that rests on
    certificate: VisibleCertificate | None = None
