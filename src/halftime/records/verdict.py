"""What `verify` decided about two sets of pictures, and what it rests on."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.environment import Environment

Decision = Literal["equivalent", "different", "inconclusive"]
EVERYTHING = "all"  # the class that holds every pair


class Comparison(Record, frozen=True, kw_only=True):
    """One metric in one content class.

    `value` is the mean over the pairs: of the distance, or of candidate minus baseline for a signed
    metric; `low` and `high` bound it at 90 % (the two one-sided 5 % tests of TOST). `floors` is
    |value| in units of the noise floor.
    """

    metric: str
    content_class: str
    pairs: int
    value: float
    low: float
    high: float
    floors: float
    decision: Decision
    decides: bool  # whether the verdict depends on it
    prompts_needed: int | None = None  # pairs of this class for a decision, where there is none
    # why the verdict does not depend on it here though it would elsewhere
    stands_aside: str = ""


class FloorEntry(Record, frozen=True, kw_only=True):
    """What one change that changes nothing did to a metric: the mean over its pairs."""

    metric: str
    source: str  # 'rerun', 'batch', 'threads', 'kernels', '8-bit', 'one level'
    pairs: int
    value: float


class Pair(Record, frozen=True, kw_only=True):
    """Two pictures of the same prompt and seed, with every metric that was computed."""

    name: str
    content_class: str
    prompt: str = ""
    metrics: dict[str, float]


class Trip(Record, frozen=True, kw_only=True):
    """A picture that is broken whatever the metrics say."""

    side: Literal["baseline", "candidate"]
    name: str
    reason: str


class Outlier(Record, frozen=True, kw_only=True):
    """A pair that is a difference by itself, whatever the mean over all pairs is."""

    name: str
    content_class: str
    metric: str
    value: float
    floors: float
    reason: str


class VisibleShare(Record, frozen=True, kw_only=True):
    """How many pictures differ visibly: beyond the margin by FLIP, overall or in a small block."""

    pairs: int
    different: int
    at_most: float  # of all pictures that could be drawn, with `confidence` (Clopper-Pearson)
    confidence: float


# Schema history
# 1  2026-11  first; later: outliers, visible, stands_aside, all with defaults
class Verdict(Record, frozen=True, kw_only=True):
    """`equivalent` within `margin` noise floors, `different` beyond, or inconclusive."""

    schema: Literal[1] = 1
    verdict: Decision
    reasons: tuple[str, ...]  # why, in words, the weightiest first
    halftime: str = ""
    created: str = ""
    baseline: str = ""
    candidate: str = ""
    pairs: int
    margin: float  # in noise floors
    # metric -> what counts as one floor, the largest of the entries below
    noise_floor: dict[str, float]
    floor_entries: tuple[FloorEntry, ...] = ()
    per_class: tuple[Comparison, ...]
    worst_pairs: tuple[Pair, ...]
    trips: tuple[Trip, ...] = ()
    outliers: tuple[Outlier, ...] = ()
    visible: VisibleShare | None = None
    skipped: dict[str, str] = {}  # metric -> why it was not computed
    prompts_needed: int | None = None
    environment: Environment | None = None
    notes: tuple[str, ...] = ()
