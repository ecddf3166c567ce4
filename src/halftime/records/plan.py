"""What `plan` says: which precision, offload and parallelism fits a card, and how fast."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record


class PlanRow(Record, frozen=True, kw_only=True):
    """One way to run a call, with its forecast: seconds with a 90 % band, peak memory of a card."""

    precision: str
    offload: str  # none, model, group or sequential
    parallel: str = "none"  # guidance, ulysses or ring
    cache: str = "none"  # or step-cache
    compiled: bool = False
    tiled: bool = False
    seconds: float
    low: float
    high: float
    transfer_seconds: float = 0.0  # of them, moving weights or activations between cards and host
    memory_bytes: float  # peak that torch allocates on one card
    fits: bool
    meets_target: bool = True
    per_picture: float | None = None  # in the price list's currency
    note: str = ""


class PlanRefusal(Record, frozen=True, kw_only=True):
    """Ways of one kind that are out, and the sentence that says why."""

    what: str
    why: str


# Schema history
# 1  2026-11  first
class DeploymentPlan(Record, frozen=True, kw_only=True):
    """The best ways to run a model on a card, best first, and what rules out the rest."""

    schema: Literal[1] = 1
    kind: Literal["plan"] = "plan"
    halftime: str = ""
    model: str = ""
    card: str = ""  # as asked
    gpu: str  # forecast as this one
    cards: int = 1
    gpu_memory_bytes: float
    width: int = 0
    height: int = 0
    frames: int = 0
    steps: int = 0
    batch: int = 0
    guidance: bool = False
    target_seconds: float | None = None
    best: tuple[PlanRow, ...] = ()
    others: tuple[PlanRow, ...] = ()  # all that were weighed and are not among the best
    ruled_out: tuple[PlanRefusal, ...] = ()
    notes: tuple[str, ...] = ()
