"""How far a pair of pictures is apart, in units of a rule that says what differs visibly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from halftime.base.errors import BadInput
from halftime.records.certificate import Visible
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.metrics import METRICS, Kit, kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired
from halftime.verbs.verify.run import new_faults
from halftime.verbs.verify.tripwires import trips


@dataclass(frozen=True)
class Ruler:
    """Measures pairs in units of the limits: above 1 a pair differs visibly."""

    rule: Visible
    tools: Kit

    def size(self, baseline: Picture, candidate: Picture) -> float:
        """How far a pair is apart; infinite for a picture that is broken where the baseline's is
        not, or of another size."""
        if new_faults(trips([(baseline, candidate)])):
            return math.inf
        return size_of(self.tools.measure(baseline, candidate), self.rule.limits)

    def sizes(self, baseline: PictureSet, candidate: PictureSet) -> list[float]:
        """Of each pair, in the order of the baseline's first pictures."""
        first = baseline.first(len(candidate.pictures))
        return [self.size(*pair) for pair in paired(first, candidate)]


def size_of(row: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """The largest of a pair's metrics in units of its limit."""
    return max(loss(name, row[name]) / limit for name, limit in limits.items())


def loss(name: str, value: float) -> float:
    """A distance, or by how much a score falls."""
    return value if METRICS[name].kind == "distance" else max(0.0, -value)


def ruler_of(rule: Visible) -> Ruler:
    """For pairs that come one by one, by a rule that a certificate states. Raises BadInput where a
    metric of it cannot be computed here."""
    tools = kit([], judges.find(None), judges.find_lpips(None))
    for name in rule.limits:
        if name not in tools.functions or name == "latent":
            reason = tools.skipped.get(name, "a picture alone has no latents")
            raise BadInput(
                f"what differs visibly is said by {name}, which is not computed: {reason}."
            )
    return Ruler(rule, tools.only({*rule.limits}))
