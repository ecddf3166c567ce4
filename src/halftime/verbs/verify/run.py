"""`verify`: measure the floor, compare the pairs, decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from halftime.base.errors import BadInput
from halftime.base.version import version
from halftime.records import Environment
from halftime.records.verdict import (
    EVERYTHING,
    Comparison,
    Decision,
    FloorEntry,
    Pair,
    Trip,
    Verdict,
)
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.decide import FEWEST, compare, overall
from halftime.verbs.verify.floor import EIGHT_BIT, RERUN, entries, noise_floor, sound, strangers
from halftime.verbs.verify.metrics import kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired, read_folder
from halftime.verbs.verify.tripwires import trips

MARGIN = 3.0  # noise floors
_WORST = 12
_NO_JUDGE = "not asked"


@dataclass(frozen=True)
class Settings:
    """How to judge. `margin` is in noise floors; `floors` are further sets of the baseline that
    should equal it."""

    margin: float = MARGIN
    floors: dict[str, PictureSet] = field(default_factory=dict)
    # count what no eye can see: leave the resolution of 8-bit pictures out of the floor
    strict: bool = False
    # a CLIP by folder or hub id; None: the bundled judge where there is one
    judge: str | None = None
    aesthetic_head: Path | None = None
    lpips_weights: Path | None = None

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise BadInput(
                f"margin is {self.margin}; it must be above 0, in noise floors, for example "
                f"{MARGIN:g}."
            )
        if self.strict and not self.floors:
            raise BadInput(
                "strict needs the baseline made a second time: give a recipe or 'baseline' for "
                "A, or --floor DIR."
            )


def verify(
    baseline: PictureSet | Path | str,
    candidate: PictureSet | Path | str,
    *,
    margin: float = MARGIN,
    floors: dict[str, PictureSet] | None = None,
    strict: bool = False,
) -> Verdict:
    """Are two sets of pictures the same within noise? Sets, or folders of pictures with equal
    names.

    `floors` are sets of the baseline's own pictures made again ('rerun', 'batch', …); without them
    one floor is the resolution of 8-bit pictures. `strict` measures against `floors` alone, so it
    finds differences that no picture shows. Raises Unrepeatable where such a set has nothing in
    common with the baseline, HalftimeError otherwise.
    """
    return judged(_given(baseline), _given(candidate), Settings(margin, floors or {}, strict))


def _given(pictures: PictureSet | Path | str) -> PictureSet:
    return pictures if isinstance(pictures, PictureSet) else read_folder(Path(pictures))


def judged(
    baseline: PictureSet,
    candidate: PictureSet,
    settings: Settings,
    environment: Environment | None = None,
) -> Verdict:
    """As `verify`, with all settings."""
    pairs = paired(baseline, candidate)
    found = trips(pairs)
    whole = [(one, other) for one, other in pairs if one.pixels.shape == other.pixels.shape]
    tools = kit(
        [picture for pair in whole for picture in pair] or list(baseline.pictures),
        judges.find(settings.judge, settings.aesthetic_head),
        judges.find_lpips(settings.lpips_weights),
    )
    floor_entries = entries(baseline, settings.floors, tools)
    usable, remarks = sound(floor_entries, strangers(baseline, tools), settings.margin)
    floor = noise_floor(usable, settings.strict)
    measured = [tools.measure(one, other) for one, other in whole]
    comparisons = (
        compare(measured, [one.content_class for one, _ in whole], floor, settings.margin)
        if whole
        else []
    )
    decision = _decision(comparisons, found)
    return Verdict(
        verdict=decision,
        reasons=tuple(reasons(decision, comparisons, found, settings.margin)),
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        baseline=baseline.label,
        candidate=candidate.label,
        pairs=len(pairs),
        margin=settings.margin,
        noise_floor=floor,
        floor_entries=tuple(floor_entries),
        per_class=tuple(comparisons),
        worst_pairs=tuple(worst(whole, measured, floor)),
        trips=tuple(found),
        skipped=tools.skipped,
        prompts_needed=_needed(comparisons) if decision == "inconclusive" else None,
        environment=environment,
        notes=(*remarks, *_notes(settings, found), *_below_sight(settings, comparisons, usable)),
    )


def check_repeats(baseline: PictureSet, again: PictureSet, margin: float = MARGIN) -> None:
    """Raises Unrepeatable where the baseline, drawn again, is no nearer to itself than different
    pictures are."""
    tools = kit(list(baseline.pictures), _NO_JUDGE, _NO_JUDGE)
    sound(entries(baseline, {RERUN: again}, tools), strangers(baseline, tools), margin)


def _decision(comparisons: Sequence[Comparison], found: Sequence[Trip]) -> Decision:
    return "different" if _new_faults(found) or not comparisons else overall(comparisons)


def _new_faults(found: Sequence[Trip]) -> list[Trip]:
    """Pictures that are broken in the candidate alone, or in another way."""
    known = {(trip.name, trip.reason) for trip in found if trip.side == "baseline"}
    return [
        trip for trip in found if trip.side == "candidate" and (trip.name, trip.reason) not in known
    ]


def _needed(comparisons: Sequence[Comparison]) -> int | None:
    """Prompts of the whole set, at its present mix of classes, for the comparison that needs
    most."""
    total = max((c.pairs for c in comparisons), default=0)
    needs = [
        -(-c.prompts_needed * total // c.pairs)
        for c in comparisons
        if c.decides and c.prompts_needed
    ]
    return max(needs, default=None)


def reasons(
    decision: Decision, comparisons: Sequence[Comparison], found: Sequence[Trip], margin: float
) -> list[str]:
    """Why, in words: broken pictures first, then the comparisons that decided, the farthest
    first."""
    texts = [f"picture {trip.name}: {trip.reason}" for trip in _new_faults(found)]
    deciding = [c for c in comparisons if c.decides and c.decision == decision]
    for each in sorted(deciding, key=lambda c: -c.floors):
        place = (
            "over all pairs"
            if each.content_class == EVERYTHING
            else f"in class {each.content_class}"
        )
        word = {"different": "beyond", "equivalent": "within", "inconclusive": "too near to"}[
            decision
        ]
        texts.append(
            f"{each.metric} {place}: {each.floors:.2g} noise floors, {word} the margin of "
            f"{margin:g}"
        )
    return texts


def worst(
    pairs: Sequence[tuple[Picture, Picture]],
    measured: Sequence[dict[str, float]],
    floor: dict[str, float],
) -> list[Pair]:
    """The pairs that are farthest apart, by the largest of their distances in noise floors."""

    def size(row: dict[str, float]) -> float:
        return max(abs(value) / floor[name] for name, value in row.items())

    ranked = sorted(zip(pairs, measured, strict=True), key=lambda item: -size(item[1]))
    return [
        Pair(name=one.name, content_class=one.content_class, prompt=one.prompt, metrics=row)
        for (one, _), row in ranked[:_WORST]
    ]


def _below_sight(
    settings: Settings, comparisons: Sequence[Comparison], floor_entries: Sequence[FloorEntry]
) -> list[str]:
    """Small and real are two questions: say where a difference that counts as none is no
    accident."""
    if settings.strict or not settings.floors:
        return []
    measured = noise_floor(floor_entries, strict=True)
    real = [
        c
        for c in comparisons
        if c.content_class == EVERYTHING and c.decides and c.decision == "equivalent"
    ]
    beyond = [c for c in real if max(c.low, -c.high) > settings.margin * measured[c.metric]]
    return [
        f"{c.metric}: the difference is real, though no 8-bit picture shows it: "
        f"{abs(c.value) / measured[c.metric]:,.0f} times what the baseline does to itself. "
        "--strict calls it different."
        for c in beyond
    ]


def _notes(settings: Settings, found: Sequence[Trip]) -> list[str]:
    notes = []
    if not settings.floors:
        notes.append(
            f"The noise floor is the resolution of {EIGHT_BIT} pictures alone; the baseline "
            "was not made a second time."
        )
    broken = [trip for trip in found if trip.side == "baseline"]
    if broken:
        notes.append(
            f"{len(broken)} pictures of the baseline itself look broken: {broken[0].reason}."
        )
    notes.append(f"A class needs {FEWEST} pairs for a decision of its own.")
    return notes
