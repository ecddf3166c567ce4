"""When a picture differs visibly from the baseline's: the rule, and how far a pair is from it.

The unit of the rule is a stranger: how far pictures of different prompts are apart. Small shares of
that are another grain, a softer edge; at the whole of it nothing is left of the picture. By default
a pair may not be farther than SHARE of it by FLIP and MS-SSIM, and the judge's agreement with the
prompt may not fall by more than that share of what it falls by for a stranger's picture. No limit
is below `verify`'s margin, under which nothing can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from halftime.base.errors import BadInput
from halftime.records.certificate import Visible
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.floor import floor_entries, noise_floor, usable_entries
from halftime.verbs.verify.metrics import METRICS, Kit, kit
from halftime.verbs.verify.pictures import Picture, PictureSet
from halftime.verbs.verify.ruler import Ruler, loss
from halftime.verbs.verify.run import MARGIN

# metric -> share of its distance between strangers
SHARES = {"flip": 0.1, "flip_local": 0.5, "ms_ssim": 0.1, "agreement": 0.1}
_MOST_STRANGERS = 32
_NEAR = 0.25  # quantile of the strangers' distances


def ruler(
    baseline: PictureSet, floors: Mapping[str, PictureSet], own_limits: Mapping[str, float]
) -> Ruler:
    """The rule for these pictures; `own_limits` replace the default ones altogether.

    Raises BadInput where a metric cannot be computed here, or strangers are so near that nothing
    could be told.
    """
    tools = kit(list(baseline.pictures), judges.find(None), judges.find_lpips(None))
    check_metrics(own_limits)
    for name in own_limits:
        if name not in tools.functions:
            raise BadInput(
                f"visible by {name}: it cannot be computed here, {tools.skipped.get(name)}."
            )
    if own_limits:
        return Ruler(Visible(limits=dict(own_limits)), tools.only({*own_limits}))
    names = [name for name in SHARES if name in tools.functions]
    tools = tools.only({*names})
    unrelated = strangers(baseline, tools)
    entries, _ = usable_entries(floor_entries(baseline, dict(floors), tools), unrelated, MARGIN)
    floor = noise_floor(entries)
    limits = {
        name: max(MARGIN * floor[name], SHARES[name] * float(np.quantile(unrelated[name], _NEAR)))
        for name in names
    }
    shares = {name: SHARES[name] for name in names}
    return Ruler(Visible(limits=limits, shares=shares), tools)


def check_metrics(own_limits: Mapping[str, float]) -> None:
    """Raises BadInput for a metric that does not exist, or a limit that is none."""
    for name, limit in own_limits.items():
        if name not in METRICS:
            raise BadInput(f"there is no metric {name!r}. There are: {', '.join(METRICS)}.")
        if not 0 < limit < math.inf:
            raise BadInput(
                f"the limit of {name} is {limit:g}; it must be above 0, in the metric's own unit, "
                "for example flip=0.05."
            )


def strangers(baseline: PictureSet, tools: Kit) -> dict[str, np.ndarray]:
    """Each metric's loss between a picture and its neighbour's, drawn for another prompt.

    Raises BadInput for fewer than two pictures.
    """
    pairs: Sequence[tuple[Picture, Picture]] = [
        (own, replace(neighbour, prompt=own.prompt))
        for own, neighbour in pairwise(baseline.pictures[:_MOST_STRANGERS])
        if own.pixels.shape == neighbour.pixels.shape
    ]
    if not pairs:
        raise BadInput(
            "no two pictures of the baseline can be compared with each other, so nothing says what "
            "a visible difference is. Give two prompts or more, or --visible-by METRIC=LIMIT."
        )
    rows = [tools.measure(*pair) for pair in pairs]
    return {name: np.array([loss(name, row[name]) for row in rows]) for name in tools.functions}
