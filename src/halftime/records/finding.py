"""One thing worth fixing."""

from __future__ import annotations

from halftime.records.base import Record
from halftime.records.fixes import RecordedFixName


class Finding(Record, frozen=True, kw_only=True):
    """Something that costs time, what it costs, and the fix by name.

    `ceiling` is Amdahl's bound: the speedup of the whole call if this cost vanished entirely, wall
    / (wall - seconds), and where the fix works on more than that, if all of it vanished; None where
    the cost could not be measured. `predicted` is the speedup of the
    whole call that the fix brings by its prior (`halftime.records.fixes`), not a measurement.
    `fix` names an entry of `halftime.FIXES`, or None where the remedy is not one of them; the
    message then says what to do.
    """

    id: str  # stable, kebab-case: 'vae-fp32'
    stage: str
    message: str  # one sentence in plain words, with its numbers
    seconds: float | None = None  # per call
    ceiling: float | None = None
    predicted: float | None = None
    fix: RecordedFixName | None = None
    where: tuple[str, ...] = ()  # file:line, costliest first
    evidence: dict[str, float | int | str] = {}
    broken: bool = False  # what was drawn is wrong: before anything about its speed

    @property
    def of_first_call(self) -> bool:
        """Whether cost and ceiling are those of the first call, not of a steady one."""
        return self.id.endswith("first-call")


def ceiling(seconds: float, wall_seconds: float) -> float | None:
    """Amdahl (1967): the speedup if `seconds` of `wall_seconds` vanished. None where nothing would
    be left."""
    return wall_seconds / (wall_seconds - seconds) if 0 <= seconds < wall_seconds else None
