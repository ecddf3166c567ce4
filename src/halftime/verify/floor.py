"""The noise floor: what changes nothing still changes a little. Measured first, and the unit of every margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halftime.records.verdict import FloorEntry
from halftime.verify.metrics import METRICS, Kit
from halftime.verify.pictures import Picture, PictureSet, paired

EIGHT_BIT = "8-bit"


def eight_bit(picture: Picture, seed: int = 0) -> Picture:
    """The picture with half of its values one grey level off: what rounding to 8 bits can do, and no eye sees."""
    rng = np.random.default_rng(seed)
    step = rng.choice(np.array([-1, 0, 0, 1], dtype=np.int16), size=picture.pixels.shape)
    pixels = np.clip(picture.pixels.astype(np.int16) + step, 0, 255).astype(np.uint8)
    # Latents have no 8-bit form; theirs is the same size of change, one part in 255 of the range, on half the values.
    latent = picture.latent
    if latent is not None:
        noise = rng.choice(np.array([-1, 0, 0, 1], dtype=np.float32), size=latent.shape)
        latent = (latent + noise * (float(np.ptp(latent)) / 255)).astype(np.float32)
    return Picture(picture.name, pixels, picture.content_class, picture.prompt, latent)


def entries(baseline: PictureSet, others: dict[str, PictureSet], kit: Kit) -> list[FloorEntry]:
    """Each metric over each harmless change, and over the resolution of 8-bit pictures, below which nothing is seen."""
    found = []
    dithered = [(p, eight_bit(p, seed)) for seed, p in enumerate(baseline.pictures[:32])]
    found += _entries(EIGHT_BIT, dithered, kit)
    for source, other in others.items():
        names = {picture.name for picture in other.pictures}
        same = PictureSet(baseline.label, tuple(p for p in baseline.pictures if p.name in names))
        found += _entries(source, paired(same, other), kit)
    return found


def _entries(source: str, pairs: Sequence[tuple[Picture, Picture]], kit: Kit) -> list[FloorEntry]:
    rows = [kit.measure(one, other) for one, other in pairs]
    return [
        FloorEntry(metric=name, source=source, pairs=len(rows), value=_size(name, [row[name] for row in rows]))
        for name in kit.functions
    ]


def _size(name: str, values: Sequence[float]) -> float:
    """The mean distance; for a signed score the root mean square, since its mean would cancel."""
    if METRICS[name].kind == "distance":
        return float(np.mean(values))
    return float(np.sqrt(np.mean(np.square(values))))


def noise_floor(found: Sequence[FloorEntry], strict: bool = False) -> dict[str, float]:
    """metric -> one floor: the largest of its entries, and never nothing.

    `strict` leaves the resolution of 8-bit pictures out: what counts then is what the configuration does to itself.
    """
    floor: dict[str, float] = {}
    for entry in [each for each in found if not (strict and each.source == EIGHT_BIT)]:
        floor[entry.metric] = max(floor.get(entry.metric, 1e-9), entry.value)
    return floor
