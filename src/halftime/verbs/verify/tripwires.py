"""Pictures that are broken whatever the metrics say.

NaN, black, one colour, pure noise, or another size than the baseline's. A black frame can beat
a healthy picture on a CLIP score, so these come before any metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halftime.records.verdict import Trip
from halftime.verbs.verify.pictures import Array, Picture

_BLACK = 4.0  # mean of 255 below which a picture counts as black
_FLAT = 1.0  # standard deviation of 255 below which it has one colour
_NOISE_CORRELATION = 0.25  # between neighbours; photographs and drawings have above 0.8
_NOISE_SPREAD = 12.0  # of 255


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
    values = picture.pixels.astype(np.float32)
    if values.std() < _FLAT:
        return "it is black" if values.mean() < _BLACK else "it has one colour only"
    return "it is pure noise" if is_noise(picture.pixels) else ""


def is_noise(pixels: Array) -> bool:
    """Whether neighbours are unrelated in brightness, in both directions."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    if grey.std() < _NOISE_SPREAD or min(grey.shape) < 8:
        return False
    across = _correlation(grey[:, 1:], grey[:, :-1])
    down = _correlation(grey[1:], grey[:-1])
    return max(across, down) < _NOISE_CORRELATION


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 1.0


def _other_size(baseline: Picture, candidate: Picture) -> str:
    if baseline.pixels.shape == candidate.pixels.shape:
        return ""
    (h, w, _), (bh, bw, _) = candidate.pixels.shape, baseline.pixels.shape
    return f"it has {w}x{h} pixels, the baseline {bw}x{bh}"
