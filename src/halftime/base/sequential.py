"""Has a share become larger than was certified? A test that may look after every event.

Every event multiplies a bet against 'at most alpha of the events fail', and a new bet begins with
every event (an e-detector of Shiryaev and Roberts's kind, Shin, Ramdas and Rinaldo 2023,
'E-detectors'). While the share is at most alpha, an alarm comes after 1 / FALSE_ALARMS events on
average or later, however long it has run before.
"""

from __future__ import annotations

FALSE_ALARMS = 1e-5  # an event, while all is well
# the shares that are betted on, as multiples of alpha, and their parts of the bet
BETS = ((2.0, 0.2), (3.0, 0.5), (8.0, 0.2), (25.0, 0.1))


class Detector:
    """Bets against 'the share of events is at most `most`'."""

    def __init__(self, most: float, bets: tuple[tuple[float, float], ...]) -> None:
        """`bets`: other shares, and how much of the bet is on each."""
        self.wealth = 0.0
        self._weights = [weight for _, weight in bets]
        self._happened = [share / most for share, _ in bets]
        self._did_not = [(1 - share) / (1 - most) for share, _ in bets]
        self._bets = [0.0] * len(bets)

    def add(self, happened: bool) -> bool:
        """Count one more; whether there is an alarm now."""
        factors = self._happened if happened else self._did_not
        self._bets = [(bet + 1) * factor for bet, factor in zip(self._bets, factors, strict=True)]
        self.wealth = sum(
            weight * bet for weight, bet in zip(self._weights, self._bets, strict=True)
        )
        return self.wealth >= 1 / FALSE_ALARMS


def error_detector(alpha: float) -> Detector:
    """Of failures that are more often than was certified."""
    bets = [(min(alpha * times, (1 + alpha) / 2), weight) for times, weight in BETS]
    return Detector(alpha, tuple(bets))
