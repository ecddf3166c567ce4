"""The noise floor: what changes nothing still changes a little. Measured first, and the unit of
every margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from halftime.base.errors import Unrepeatable
from halftime.records.verdict import FloorEntry
from halftime.verbs.verify.metrics import METRICS, Kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired

EIGHT_BIT, RERUN = "8-bit", "rerun"
# What should change nothing that anybody sees, and mostly does not: source -> in words.
VARIATIONS = {
    "batch": "A batch of two",
    "threads": "Another number of threads",
    "kernels": "Another choice of kernels",
}


def eight_bit(picture: Picture, seed: int = 0) -> Picture:
    """The picture with half of its values one grey level off: what rounding to 8 bits can do, and
    no eye sees."""
    rng = np.random.default_rng(seed)
    step = rng.choice(np.array([-1, 0, 0, 1], dtype=np.int16), size=picture.pixels.shape)
    pixels = np.clip(picture.pixels.astype(np.int16) + step, 0, 255).astype(np.uint8)
    # Latents have no 8-bit form; theirs is the same size of change, one part in 255 of the range,
    # on half the values.
    latent = picture.latent
    if latent is not None:
        noise = rng.choice(np.array([-1, 0, 0, 1], dtype=np.float32), size=latent.shape)
        latent = (latent + noise * (float(np.ptp(latent)) / 255)).astype(np.float32)
    return Picture(picture.name, pixels, picture.content_class, picture.prompt, latent)


def entries(baseline: PictureSet, others: dict[str, PictureSet], kit: Kit) -> list[FloorEntry]:
    """Each metric over each harmless change, and over the resolution of 8-bit pictures, below which
    nothing is seen."""
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
        FloorEntry(
            metric=name,
            source=source,
            pairs=len(rows),
            value=_size(name, [row[name] for row in rows]),
        )
        for name in kit.functions
    ]


def _size(name: str, values: Sequence[float]) -> float:
    """The mean distance; for a signed score the root mean square, since its mean would cancel."""
    if METRICS[name].kind == "distance":
        return float(np.mean(values))
    return float(np.sqrt(np.mean(np.square(values))))


def strangers(baseline: PictureSet, kit: Kit) -> dict[str, float]:
    """How far apart pictures are that have nothing in common: each of the baseline's and the next,
    by each distance that decides; empty for a single picture."""
    pairs = [
        (a, b) for a, b in pairwise(baseline.pictures[:32]) if a.pixels.shape == b.pixels.shape
    ]
    names = [
        name for name in kit.functions if METRICS[name].decides and METRICS[name].kind == "distance"
    ]
    return (
        {name: float(np.mean([kit.functions[name](*pair) for pair in pairs])) for name in names}
        if pairs
        else {}
    )


def drowning(
    found: Sequence[FloorEntry], apart: Mapping[str, float], margin: float
) -> list[FloorEntry]:
    """The entries that alone widen the margin to the distance of strangers: with them all things
    are equivalent."""
    return [
        entry
        for entry in found
        if entry.metric in apart and margin * entry.value >= apart[entry.metric]
    ]


def sound(
    found: Sequence[FloorEntry], apart: Mapping[str, float], margin: float
) -> tuple[list[FloorEntry], list[str]]:
    """The entries without those of a variation that turns out not to be harmless here, and a note
    on each of these.

    Raises Unrepeatable where the baseline made a second time, without any variation, is no nearer
    than strangers are.
    """
    drowned = {entry.source: entry for entry in reversed(drowning(found, apart, margin))}
    for entry in drowned.values():
        if entry.source not in (EIGHT_BIT, *VARIATIONS):
            raise Unrepeatable(_unrepeatable(entry, apart[entry.metric]))
    left_out = [source for source in drowned if source in VARIATIONS]
    notes = [
        f"{VARIATIONS[source]} draws other pictures here, so it is left out of the floor."
        for source in left_out
    ]
    if EIGHT_BIT in drowned:
        notes.append(
            "The baseline's own pictures hardly differ from one another, so that they can show "
            "little."
        )
    return [entry for entry in found if entry.source not in left_out], notes


def _unrepeatable(entry: FloorEntry, apart: float) -> str:
    again = (
        "the same prompts and seeds, drawn again,"
        if entry.source == RERUN
        else f"the set {entry.source!r}"
    )
    return (
        f"The baseline does not repeat itself: by {entry.metric}, {again} came out "
        f"{entry.value:.2g} away, and "
        f"pictures of different prompts are {apart:.2g} apart. Against that nothing can be "
        "verified. The pipeline must "
        "draw all its noise from the `generator` of its call."
    )


def noise_floor(found: Sequence[FloorEntry], strict: bool = False) -> dict[str, float]:
    """metric -> one floor: the largest of its entries, and never nothing.

    `strict` leaves the resolution of 8-bit pictures out: what counts then is what the configuration
    does to itself.
    """
    floor: dict[str, float] = {}
    for entry in [each for each in found if not (strict and each.source == EIGHT_BIT)]:
        floor[entry.metric] = max(floor.get(entry.metric, 1e-9), entry.value)
    return floor
