"""Drift: does the certificate still hold? Judged on the few requests sent to both models."""

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
        """A small answer was compared with the large model's answer to the same request."""
        self.shadowed += 1
        self.unacceptable += not acceptable

    @property
    def small_share(self) -> Interval:
        """Share of recent requests sent to the small model, with three standard errors each way."""
        n = max(1, len(self._recent))
        share, certified = sum(self._recent) / n, self.router.small_share
        variance = max(share * (1 - share), certified * (1 - certified)) / n
        width = 3 * variance**0.5
        return Interval(share, share - width, share + width)

    @property
    def alarms(self) -> list[str]:
        """What has drifted."""
        alarms = []
        if self.shadowed >= FEWEST:
            least = lower_bound(self.unacceptable, self.shadowed, 0.01)
            if least > self.router.alpha:
                alarms.append(
                    f"{self.unacceptable} of {self.shadowed} shadowed answers of the small model "
                    f"were unacceptable: with 99 % confidence more than {least:.1%}, where "
                    f"{self.router.alpha:.1%} was certified. Recalibrate."
                )
        share, certified = self.small_share, self.router.small_share
        near = share.low - 0.1 <= certified <= share.high + 0.1
        if len(self._recent) == RECENT and not near:
            alarms.append(
                f"{share.value:.0%} of the last {RECENT:,} requests went to the small model, where "
                f"{certified:.0%} did in the calibration: the requests have changed. Recalibrate."
            )
        return alarms
