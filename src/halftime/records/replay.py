"""A session and its repetition elsewhere."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.session import Session


class Difference(Record, frozen=True, kw_only=True):
    """A field of workload or environment that differs; `meaning` says what follows, in words."""

    field: str  # 'environment.threads'
    then: str
    now: str
    meaning: str = ""


# Schema history
# 1  2026-11  first
class Replay(Record, frozen=True, kw_only=True):
    """A session, the same workload here, and what explains the distance; speedup = then / now."""

    schema: Literal[1] = 1
    then: Session
    now: Session
    speedup: float
    low: float  # bounds of the 95 % interval; both the speedup itself where a side is a single call
    high: float
    differences: tuple[Difference, ...] = ()
    stages: dict[str, float] = {}  # stage -> its own speedup, where both have it
