"""What the pictures that were drawn twice say of the recipe's certificate: one test for all workers
of an engine, which goes on when a worker is replaced (`halftime.base.sequential`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from halftime.base.sequential import FALSE_ALARMS, Detector, error_detector
from halftime.verbs.serve.wire import Shadowed


@dataclass
class CertificateWatch:
    """Counts since the engine was made."""

    drawn: int = 0
    different: int = 0
    broken: bool = False  # the certificate does not hold
    _troubled: bool = False
    _detectors: dict[float, Detector] = field(default_factory=dict)  # by alpha: there is one

    def hear(self, message: Shadowed) -> list[str]:
        """Count what a worker has compared; the alarms that this raises, each of them once."""
        alarms = [self._add(message.alpha, differs) for differs in message.differ]
        if message.trouble and not self._troubled:
            self._troubled = True
            alarms.append(
                "a picture could not be drawn again, and as long as that is so nothing watches the "
                f"recipe's certificate: {message.trouble}"
            )
        return [alarm for alarm in alarms if alarm]

    def _add(self, alpha: float, differs: bool) -> str:
        self.drawn += 1
        self.different += differs
        detector = self._detectors.setdefault(alpha, error_detector(alpha))
        if not detector.add(differs) or self.broken:
            return ""
        self.broken = True
        return (
            f"the recipe's certificate does not hold for what is asked here: {self.different:,} of "
            f"{self.drawn:,} pictures that were drawn twice differ visibly, and the latest of them "
            f"contradict the {alpha:.1%} that was certified (a false alarm once "
            f"in {1 / FALSE_ALARMS:,.0f} pictures). Run halftime tune --visible again with prompts "
            "such as these"
        )
