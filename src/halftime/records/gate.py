"""What `gate` decided about two versions of a pipeline, and what it rests on."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.verdict import Verdict
from halftime.records.workload import Workload

GateWord = Literal["pass", "faster", "accepted", "slower", "worse", "undecided"]
SideKind = Literal["here", "baseline", "recipe", "revision", "environment", "requirement", "stored"]

ACCEPTED_FILE = "halftime-accepted.jsonl"


class GateSide(Record, frozen=True, kw_only=True):
    """One of the two versions: what it is, and what its processes said about themselves."""

    label: str
    kind: SideKind
    python: str = ""
    commit: str = ""  # of a revision, or of the checkout that the candidate is
    facts: dict[str, str] = {}  # versions, settings, scheduler, dtypes, attention …
    first_call_seconds: float | None = None  # the middle one of its processes


class GateProcess(Record, frozen=True, kw_only=True):
    """One process: the seconds of its calls, whole and by stage, in the order of the rounds."""

    side: Literal["base", "candidate"]
    wall_seconds: tuple[float, ...]
    stage_seconds: dict[str, tuple[float, ...]] = {}


class GateCohort(Record, frozen=True, kw_only=True):
    """Processes that lived side by side and took turns call by call."""

    processes: tuple[GateProcess, ...]


class StageShift(Record, frozen=True, kw_only=True):
    """One stage on both sides; `low` and `high` bound the difference (None: not bounded yet)."""

    stage: str
    base_seconds: float
    candidate_seconds: float
    difference_seconds: float
    low_seconds: float | None
    high_seconds: float | None

    @property
    def moved(self) -> bool:
        """Whether the difference is not zero, as far as its interval knows."""
        return (self.low_seconds or 0.0) > 0 or (self.high_seconds or 0.0) < 0


class GateCounter(Record, frozen=True, kw_only=True):
    """Something that is counted, not timed: it has no noise, so any machine may gate on it."""

    name: str
    unit: Literal["count", "flops", "bytes"] = "count"
    base: float | None
    candidate: float | None
    worse: bool = False
    details: tuple[str, ...] = ()  # new lines that wait, new reasons of graph breaks
    lines: tuple[str, ...] = ()  # all of the candidate's, for when this record is a base
    skipped: str = ""  # why it was not counted
    lost: bool = False  # counted of the base, and of the candidate it failed
    accepted: str = ""  # the reason for which it may be worse


class GateDifference(Record, frozen=True, kw_only=True):
    """Something in which the two sides' environments differ."""

    name: str
    base: str
    candidate: str


# Schema history
# 1  2026-11  first
class Acceptance(Record, frozen=True, kw_only=True):
    """One line of a repository's accepted changes: what may be worse, by how much, and why."""

    schema: Literal[1] = 1
    what: str  # 'speed', 'pictures', a counter, or the stage that alone may slow a call down
    # of a call's time, for speed and a stage; of a counter by shapes; how many more of one that is
    # worse from one more on; None: pictures are others or not
    at_most: float | None
    reason: str
    date: str
    model: str = ""  # the only one that it is about; '' for all
    against: str = ""  # the only base that it is about, which is no revision


# Schema history
# 1  2026-11  first
class PastGate(Record, frozen=True, kw_only=True):
    """One line of a history: a verdict without its measurements."""

    schema: Literal[1] = 1
    created: str
    halftime: str
    question: str  # model, recipe and workload: only those alike can be drawn together
    model: str
    machine: str
    base: str
    candidate: str
    commit: str = ""  # of the candidate
    versions: dict[str, str] = {}  # of the candidate's packages
    verdict: GateWord
    reason: str = ""  # the first one
    accepted: tuple[str, ...] = ()  # why it was accepted all the same
    speed: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    alpha: float
    margin: float
    base_seconds: float | None = None
    stage_seconds: dict[str, float] = {}  # of the candidate
    counts: dict[str, float] = {}  # of the candidate
    pictures: str = ""
    spent_seconds: float

    @property
    def seconds(self) -> float | None:
        """A call of the candidate."""
        if self.base_seconds is None or self.ratio is None:
            return None
        return self.base_seconds * self.ratio


# Schema history
# 1  2026-11  first; later: objections, accepted, history, with defaults
class Gate(Record, frozen=True, kw_only=True):
    """One verdict on a candidate against its base. Speed: `ratio` is candidate / base seconds."""

    schema: Literal[1] = 1
    verdict: GateWord
    reasons: tuple[str, ...]
    objections: tuple[str, ...] = ()  # those of the reasons that speak against the candidate
    speed: Literal["pass", "faster", "slower", "undecided", "not measured"] = "not measured"
    would_decide: str = ""  # where it is undecided
    halftime: str = ""
    created: str = ""
    model: str = ""
    base: GateSide
    candidate: GateSide
    ratio: float | None = None
    # its bounds, each wrong with a probability of at most alpha at whatever moment the run ended;
    # None: not bounded yet
    low: float | None = None
    high: float | None = None
    wall_seconds: float | None = None  # the base's
    margin: float
    alpha: float
    budget_seconds: float
    spent_seconds: float
    # logarithms of the evidence: 'slower', 'fine', 'faster'; decided at -log(alpha)
    log_evidence: dict[str, float] = {}
    cohorts: tuple[GateCohort, ...] = ()
    stages: tuple[StageShift, ...] = ()
    counters: tuple[GateCounter, ...] = ()
    differences: tuple[GateDifference, ...] = ()  # the likely cause first
    pictures: Verdict | None = None
    accepted: tuple[Acceptance, ...] = ()  # what was needed of what the repository accepts
    history: tuple[PastGate, ...] = ()  # of the same question, this one last
    workload: Workload
    notes: tuple[str, ...] = ()
