"""Drift: is the certificate still true of what comes now? Judged on the small share of requests
sent to both models."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from halftime.base.stats import Interval
from halftime.records.captions import Router
from halftime.verbs.captions.certify import lower_bound

FEWEST = 20  # shadowed answers before anything is said
RECENT = 2000  # routed requests over which the share is watched


@dataclass
class Drift:
    """Counts since the start; `alarms` are sentences for an operator, empty while all is well."""

    router: Router
    shadowed: int = 0
    unacceptable: int = 0
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    def routed(self, small: bool) -> None:
        """A request was decided."""
        self._recent.append(small)

    def judged(self, acceptable: bool) -> None:
        """A request that the small model answered was answered by the large one too, and the two
        were compared."""
        self.shadowed += 1
        self.unacceptable += not acceptable

    @property
    def small_share(self) -> Interval:
        """Share of the recent requests that went to the small model, with three standard errors on
        each side."""
        n = max(1, len(self._recent))
        share = sum(self._recent) / n
        width = (
            3
            * (
                max(share * (1 - share), self.router.small_share * (1 - self.router.small_share))
                / n
            )
            ** 0.5
        )
        return Interval(share, share - width, share + width)

    @property
    def alarms(self) -> list[str]:
        """What has drifted."""
        found = []
        if self.shadowed >= FEWEST:
            least = lower_bound(self.unacceptable, self.shadowed, 0.01)
            if least > self.router.alpha:
                found.append(
                    f"{self.unacceptable} of {self.shadowed} shadowed answers of the small "
                    "model were unacceptable: "
                    f"with 99 % confidence more than {least:.1%}, where "
                    f"{self.router.alpha:.1%} was certified. "
                    "Calibrate anew."
                )
        share = self.small_share
        if (
            len(self._recent) == RECENT
            and not share.low - 0.1 <= self.router.small_share <= share.high + 0.1
        ):
            found.append(
                f"{share.value:.0%} of the last {RECENT:,} requests went to the small model, where "
                f"{self.router.small_share:.0%} did in the calibration: the requests have "
                "changed. Calibrate anew."
            )
        return found
