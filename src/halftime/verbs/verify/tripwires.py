"""Pictures that are broken whatever the metrics say.

NaN, black, one colour, pure noise, or another size than the baseline's. A black frame can beat
a healthy picture on a CLIP score, so these come before any metric.
"""

from __future__ import annotations

from collections.abc import Sequence

from halftime.base.pixels import fault
from halftime.records.verdict import Trip
from halftime.verbs.verify.pictures import Picture


def trips(pairs: Sequence[tuple[Picture, Picture]]) -> list[Trip]:
    """What is broken on either side."""
    faults = []
    for baseline, candidate in pairs:
        faults += [
            Trip(side="baseline", name=baseline.name, reason=r) for r in [broken(baseline)] if r
        ]
        reason = broken(candidate) or _other_size(baseline, candidate)
        faults += [Trip(side="candidate", name=candidate.name, reason=reason)] if reason else []
    return faults


def broken(picture: Picture) -> str:
    """Why a picture is broken, or an empty string."""
    if picture.broken:
        return picture.broken
    return fault(picture.pixels)


def _other_size(baseline: Picture, candidate: Picture) -> str:
    if baseline.pixels.shape == candidate.pixels.shape:
        return ""
    (h, w, _), (bh, bw, _) = candidate.pixels.shape, baseline.pixels.shape
    return f"it has {w}x{h} pixels, the baseline {bw}x{bh}"
