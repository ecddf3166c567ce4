"""The noise floor, the unit of every margin: what changes nothing still changes a little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import Unlike, Unrepeatable
from halftime.records.verdict import FloorEntry
from halftime.verbs.verify.metrics import METRICS, Kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired

EIGHT_BIT, RERUN, ONE_LEVEL = "8-bit", "rerun", "one level"
# What should change nothing that anybody sees, and usually does not: source -> in words.
VARIATIONS = {
    "batch": "A batch of two",
    "threads": "Another number of threads",
    "kernels": "Another choice of kernels",
}


def eight_bit(picture: Picture, seed: int = 0) -> Picture:
    """Half of the values one grey level off: what rounding to 8 bits can do, and no eye sees."""
    rng = np.random.default_rng(seed)
    step = rng.choice(np.array([-1, 0, 0, 1], dtype=np.int16), size=picture.pixels.shape)
    pixels = np.clip(picture.pixels.astype(np.int16) + step, 0, 255).astype(np.uint8)
    # Latents have no 8-bit form; theirs is the same size of change, one part in 255 of the range,
    # on half the values.
    latent = picture.latent
    if latent is not None:
        noise = rng.choice(np.array([-1, 0, 0, 1], dtype=np.float32), size=latent.shape)
        latent = (latent + noise * (float(np.ptp(latent)) / 255)).astype(np.float32)
    return replace(picture, pixels=pixels, latent=latent)


def one_level(picture: Picture, step: int) -> Picture:
    """The whole picture one grey level brighter (1) or darker (-1)."""
    pixels = np.clip(picture.pixels.astype(np.int16) + step, 0, 255).astype(np.uint8)
    return replace(picture, pixels=pixels)


def floor_entries(
    baseline: PictureSet, variations: dict[str, PictureSet], kit: Kit
) -> list[FloorEntry]:
    """Each metric over each harmless change and over the resolution of 8-bit pictures."""
    dithered = [(p, eight_bit(p, seed)) for seed, p in enumerate(baseline.pictures[:32])]
    entries = _entries(EIGHT_BIT, dithered, kit)
    # A judge averages single values out before it looks, and so is blind to the dither.
    scores = kit.only({name for name in kit.functions if METRICS[name].kind == "signed"})
    shifted = [(p, one_level(p, step)) for p in baseline.pictures[:16] for step in (-1, 1)]
    entries += _entries(ONE_LEVEL, shifted, scores)
    for source, variation in variations.items():
        names = {picture.name for picture in variation.pictures}
        same = PictureSet(baseline.label, tuple(p for p in baseline.pictures if p.name in names))
        pairs = paired(same, variation)
        _check_sizes(source, pairs)
        entries += _entries(source, pairs, kit)
    return entries


def _check_sizes(source: str, pairs: Sequence[tuple[Picture, Picture]]) -> None:
    """Raises Unlike where a picture of the floor is not as large as the baseline's."""
    for before, again in pairs:
        if before.pixels.shape != again.pixels.shape:
            (h, w, _), (bh, bw, _) = again.pixels.shape, before.pixels.shape
            raise Unlike(
                f"picture {again.name} of the floor {source!r} has {w}x{h} pixels, and the "
                f"baseline's {bw}x{bh}: a floor is the baseline made again, at the same size."
            )


def _entries(source: str, pairs: Sequence[tuple[Picture, Picture]], kit: Kit) -> list[FloorEntry]:
    rows = [kit.measure(*pair) for pair in pairs]
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


def unrelated_distances(baseline: PictureSet, kit: Kit) -> dict[str, NDArray[np.float64]]:
    """Each deciding distance between pictures of different prompts: the baseline's neighbours.

    Empty for a single picture.
    """
    pairs = [
        (a, b) for a, b in pairwise(baseline.pictures[:32]) if a.pixels.shape == b.pixels.shape
    ]
    distances = [
        name for name in kit.functions if METRICS[name].decides and METRICS[name].kind == "distance"
    ]
    rows = [kit.only({*distances}).measure(*pair) for pair in pairs]
    return {name: np.array([row[name] for row in rows]) for name in distances if rows}


def usable_entries(
    entries: Sequence[FloorEntry], unrelated: Mapping[str, NDArray[np.float64]], margin: float
) -> tuple[list[FloorEntry], list[str]]:
    """The entries without the variations that are not harmless here, and a note on each of these.

    An entry is too large when it alone widens the margin to the distance of unrelated pictures:
    with it everything would be equivalent. Raises Unrepeatable where the baseline, drawn again
    without any variation, is that far from itself.
    """
    too_large = {
        entry.source: entry
        for entry in reversed(entries)
        if entry.metric in unrelated and margin * entry.value >= unrelated[entry.metric].mean()
    }
    for entry in too_large.values():
        if entry.source not in (EIGHT_BIT, ONE_LEVEL, *VARIATIONS):
            raise Unrepeatable(_unrepeatable(entry, float(unrelated[entry.metric].mean())))
    harmful = [source for source in too_large if source in VARIATIONS]
    notes = [
        f"{VARIATIONS[source]} draws other pictures here, so it is left out of the floor."
        for source in harmful
    ]
    if EIGHT_BIT in too_large:
        notes.append(
            "The baseline's own pictures hardly differ from one another, so they can show little."
        )
    return [entry for entry in entries if entry.source not in harmful], notes


def _unrepeatable(entry: FloorEntry, unrelated: float) -> str:
    again = (
        "the same prompts and seeds, drawn again,"
        if entry.source == RERUN
        else f"the set {entry.source!r}"
    )
    return (
        f"The baseline does not repeat itself: by {entry.metric}, {again} came out "
        f"{entry.value:.2g} away, and pictures of different prompts are {unrelated:.2g} apart. "
        "Against that nothing can be verified. "
        "The pipeline must draw all its noise from the `generator` of its call."
    )


def noise_floor(entries: Sequence[FloorEntry], strict: bool = False) -> dict[str, float]:
    """metric -> one floor: the largest of its entries, and never zero.

    `strict` leaves out what 8-bit pictures cannot show: what counts then is what the configuration
    does to itself.
    """
    floor: dict[str, float] = {}
    for entry in entries:
        if not (strict and entry.source in (EIGHT_BIT, ONE_LEVEL)):
            floor[entry.metric] = max(floor.get(entry.metric, 1e-9), entry.value)
    return floor
