"""What `tune` measured and decided, and the file that makes it restartable."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.certificate import TriedSetting
from halftime.records.environment import Environment
from halftime.records.recipe import Choice, Recipe, Rung
from halftime.records.session import Session
from halftime.records.verdict import Decision, Verdict
from halftime.records.workload import Workload


class Trial(Record, frozen=True, kw_only=True):
    """Seconds of the calls of a candidate, the best plan so far and the baseline, in turns.

    The three are paired by index. `setup_seconds` is what the candidate's first call took, with
    conversion and compilation. `failure` says why there are no seconds.
    """

    incumbent_plan: tuple[Choice, ...]
    candidate_plan: tuple[Choice, ...]
    baseline: tuple[float, ...] = ()
    incumbent: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    setup_seconds: float = 0.0
    failure: str = ""
    peak_bytes: int | None = None  # of the device, where --memory limits it


class SweepPoint(Record, frozen=True, kw_only=True):
    """One solver at one number of steps: its time, and its distance from the many-step pictures."""

    scheduler: str
    steps: int
    seconds: float
    flip: float  # mean FLIP error against the pipeline's own schedule
    agreement: float | None = None  # the judge's, candidate minus reference; None without a judge
    pareto: bool = False  # nothing cheaper is as near
    within_budget: bool = False
    chosen: bool = False


class MemoryUse(Record, frozen=True, kw_only=True):
    """What a call may take of the device, and what it takes at most, in bytes.

    `start` are the fixes without which the pipeline did not fit: the baseline has them, too.
    """

    limit: int
    as_it_is: int | None = None  # None: it could not even be put there
    baseline: int | None = None
    tuned: int | None = None
    start: tuple[Choice, ...] = ()


class Slide(Record, frozen=True, kw_only=True):
    """One pair of pictures for the page, as data URIs. Not part of a file."""

    content_class: str
    prompt: str
    baseline: str
    candidate: str


# Schema history
# 1  2026-11  first
class Partial(Record, frozen=True, kw_only=True):
    """What an interrupted `tune` had measured, for the same model, workload and machine."""

    schema: Literal[1] = 1
    architecture: dict[str, str]
    workload_hash: str
    environment: dict[str, str]
    memory_bytes: int | None = None  # what --memory allowed
    start: tuple[Choice, ...] | None = None  # the baseline's fixes, by which it fits into that
    spent_seconds: float = 0.0
    session: Session | None = None
    trials: tuple[Trial, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()


# Schema history
# 1  2026-11  first; later: tried and memory, with defaults
class Tuning(Record, frozen=True, kw_only=True):
    """A finished `tune`; `verdict` is None where no picture could be compared in time."""

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""  # ISO 8601, UTC
    model: str = ""
    pipeline: str = ""
    goal: str  # 'best', '2 s' or '2.00x'
    reached: bool | None  # None for 'best'
    stopped: str  # why the search ended, in words
    baseline_seconds: float
    tuned_seconds: float
    speedup: float
    speedup_low: float  # bounds of the 95 % interval of the paired ratio; of few rounds their range
    speedup_high: float
    rounds: int | None = None  # of baseline and recipe in turns; None in older files: 11
    verdict: Decision | None
    ladder: tuple[Rung, ...]
    recipe: Recipe
    budget_seconds: float
    spent_seconds: float
    resumed: bool = False
    sweep: tuple[SweepPoint, ...] = ()
    before: Session | None = None
    after: Session | None = None
    evidence: Verdict | None = None
    environment: Environment
    workload: Workload
    workload_hash: str
    prompts: int  # how many pictures were compared
    prompts_hash: str
    notes: tuple[str, ...] = ()
    # settings of approximate fixes, where a certificate was asked for
    tried: tuple[TriedSetting, ...] = ()
    memory: MemoryUse | None = None  # where --memory limits it
