"""Drift: does the certificate still hold? A sequential test of the requests sent to both models.

Every judged answer is a bet against 'at most alpha is unacceptable' (`halftime.base.sequential`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from halftime.base.sequential import FALSE_ALARMS, Detector, error_detector
from halftime.records.captions import Router
from halftime.verbs.captions.journal import Journal

SHARE_MARGIN = 0.1  # by which the routed share may differ from the calibrated one
SHARE_BET = 0.1  # how much farther away the bet is
RECENT = 2000  # routed requests that the metric of the share is of
# reasons of decisions that a request's features took part in: as the calibration's shares are of
DECIDED = frozenset({"acceptable", "threshold", "check", "unlike", "rule"})


def _share_detector(most: float) -> Detector | None:
    bound = most + SHARE_MARGIN
    bet = min(bound + SHARE_BET, (1 + bound) / 2)
    return Detector(bound, ((bet, 1.0),)) if bound < 1 else None


@dataclass
class Drift:
    """Counts since the start, and `alarms`: sentences for an operator, empty while all is well.

    Processes that share a journal share judgements and alarms; without one they are this process's.
    An alarm stays until the journal is deleted and the server started again.
    """

    router: Router
    journal: Journal = field(default_factory=Journal)
    shadowed: int = 0
    unacceptable: int = 0
    alarms: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._errors = error_detector(self.router.alpha)
        self._more = _share_detector(self.router.small_share)
        self._less = _share_detector(1 - self.router.small_share)
        self._small, self._routed = 0.0, 0
        self.read()

    def routed(self, small: bool) -> None:
        """A request was decided by its features."""
        self._routed += 1
        self._small += (small - self._small) / min(self._routed, RECENT)
        more = self._more is not None and self._more.add(small)
        less = self._less is not None and self._less.add(not small)
        if (more or less) and not self._changed:
            self.journal.add(b"+" if more else b"-")
            self.read()

    def judged(self, acceptable: bool) -> None:
        """A small answer was compared with the large model's answer to the same request."""
        self.journal.add(b"1" if acceptable else b"0")
        self.read()

    def read(self) -> None:
        """What this process and others have added to the journal."""
        for mark in self.journal.new():
            if mark in b"+-":
                self._note_change("more" if mark == ord("+") else "fewer")
            else:
                self._note_judgement(mark == ord("1"))

    def _note_judgement(self, acceptable: bool) -> None:
        self.shadowed += 1
        self.unacceptable += not acceptable
        if self._errors.add(not acceptable) and not self._wrong:
            self.alarms.append(
                f"the small model's answers have become worse: {self.unacceptable:,} of "
                f"{self.shadowed:,} that were checked were unacceptable, and the latest of them "
                f"contradict the {self.router.alpha:.1%} that was certified (a false alarm once in "
                f"{1 / FALSE_ALARMS:,.0f} answers). Recalibrate."
            )

    def _note_change(self, word: str) -> None:
        if not self._changed:
            self.alarms.append(
                f"{word} requests go to the small model than the {self.router.small_share:.0%} of "
                "the calibration: the requests have changed. Recalibrate."
            )

    def alarmed(self) -> bool:
        """Whether this process or another one has raised an alarm."""
        self.read()
        return bool(self.alarms)

    @property
    def _wrong(self) -> bool:
        return any("have become worse" in alarm for alarm in self.alarms)

    @property
    def _changed(self) -> bool:
        return any("have changed" in alarm for alarm in self.alarms)

    @property
    def small_share(self) -> float:
        """Share of recent requests sent to the small model."""
        return self._small
