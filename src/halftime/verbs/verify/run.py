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
    Outlier,
    Pair,
    Trip,
    Verdict,
)
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.decide import FEWEST, compare, overall
from halftime.verbs.verify.floor import (
    EIGHT_BIT,
    RERUN,
    floor_entries,
    noise_floor,
    unrelated_distances,
    usable_entries,
)
from halftime.verbs.verify.metrics import kit
from halftime.verbs.verify.outliers import outliers, visible_share
from halftime.verbs.verify.pictures import Picture, PictureSet, paired, read_folder
from halftime.verbs.verify.tripwires import trips

MARGIN = 3.0  # noise floors
_WORST = 12
_NO_JUDGE = "not asked"


@dataclass(frozen=True)
class VerifySettings:
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
    return verdict_of(
        _pictures(baseline), _pictures(candidate), VerifySettings(margin, floors or {}, strict)
    )


def _pictures(pictures: PictureSet | Path | str) -> PictureSet:
    return pictures if isinstance(pictures, PictureSet) else read_folder(Path(pictures))


def verdict_of(
    baseline: PictureSet,
    candidate: PictureSet,
    settings: VerifySettings,
    environment: Environment | None = None,
) -> Verdict:
    """As `verify`, with all settings."""
    pairs = paired(baseline, candidate)
    faults = trips(pairs)
    comparable = [pair for pair in pairs if pair[0].pixels.shape == pair[1].pixels.shape]
    tools = kit(
        [picture for pair in comparable for picture in pair] or list(baseline.pictures),
        judges.find(settings.judge, settings.aesthetic_head),
        judges.find_lpips(settings.lpips_weights),
    )
    entries = floor_entries(baseline, settings.floors, tools)
    unrelated = unrelated_distances(baseline, tools)
    usable, remarks = usable_entries(entries, unrelated, settings.margin)
    floor = noise_floor(usable, settings.strict)
    visible_floor = noise_floor(usable)
    measured = [tools.measure(*pair) for pair in comparable]
    baselines = [picture for picture, _ in comparable]
    classes = [picture.content_class for picture in baselines]
    comparisons, exceptions = [], []
    if comparable:
        comparisons = compare(measured, classes, floor, settings.margin, strict=settings.strict)
        exceptions = outliers(baselines, measured, visible_floor, unrelated, settings.margin)
    broken = {trip.name for trip in new_faults(faults)}
    unmeasured = len(pairs) - len(comparable)
    decision: Decision = (
        "different" if broken or exceptions or not comparisons else overall(comparisons)
    )
    return Verdict(
        verdict=decision,
        reasons=tuple(reasons(decision, comparisons, faults, exceptions, settings.margin)),
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        baseline=baseline.label,
        candidate=candidate.label,
        pairs=len(pairs),
        margin=settings.margin,
        noise_floor=floor,
        floor_entries=tuple(entries),
        per_class=tuple(comparisons),
        worst_pairs=tuple(worst(comparable, measured, floor)),
        trips=tuple(faults),
        outliers=tuple(exceptions[:_WORST]),
        visible=visible_share(measured, visible_floor, settings.margin, unmeasured),
        skipped=tools.skipped,
        prompts_needed=_needed(comparisons) if decision == "inconclusive" else None,
        environment=environment,
        notes=(
            *dict.fromkeys((*baseline.notes, *candidate.notes)),
            *remarks,
            *_notes(settings, faults),
            *_below_sight(settings, comparisons, usable),
            *_standing_aside(comparisons),
        ),
    )


def check_repeats(baseline: PictureSet, again: PictureSet, margin: float = MARGIN) -> None:
    """Raises Unrepeatable where the baseline, drawn again, is as far away as unrelated pictures."""
    tools = kit(list(baseline.pictures), _NO_JUDGE, _NO_JUDGE)
    entries = floor_entries(baseline, {RERUN: again}, tools)
    usable_entries(entries, unrelated_distances(baseline, tools), margin)


def new_faults(faults: Sequence[Trip]) -> list[Trip]:
    """Pictures that are broken in the candidate alone, or in another way."""
    in_baseline = {(trip.name, trip.reason) for trip in faults if trip.side == "baseline"}
    return [
        trip
        for trip in faults
        if trip.side == "candidate" and (trip.name, trip.reason) not in in_baseline
    ]


def _needed(comparisons: Sequence[Comparison]) -> int | None:
    """Prompts for the comparison that needs most, at the present mix of classes."""
    total = max((c.pairs for c in comparisons), default=0)
    needs = [
        -(-c.prompts_needed * total // c.pairs)
        for c in comparisons
        if c.decides and c.prompts_needed
    ]
    return max(needs, default=None)


def reasons(
    decision: Decision,
    comparisons: Sequence[Comparison],
    faults: Sequence[Trip],
    exceptions: Sequence[Outlier],
    margin: float,
) -> list[str]:
    """Why, in words: broken pictures, what decided, the farthest first, and single pairs."""
    texts = [f"picture {trip.name}: {trip.reason}" for trip in new_faults(faults)]
    deciding = [c for c in comparisons if c.decides and c.decision == decision]
    for comparison in sorted(deciding, key=lambda c: -c.floors):
        name = comparison.content_class
        scope = "over all pairs" if name == EVERYTHING else f"in class {name}"
        texts.append(
            f"{comparison.metric} {scope}: {comparison.floors:.2g} noise floors, "
            f"{_relation(comparison)} the margin of {margin:g}"
        )
    return texts + [f"picture {outlier.name}: {outlier.reason}" for outlier in exceptions[:_WORST]]


def _relation(comparison: Comparison) -> str:
    if comparison.decision == "inconclusive":
        return f"and {comparison.pairs} pairs do not decide on which side of"
    return "beyond" if comparison.decision == "different" else "within"


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
        Pair(name=p.name, content_class=p.content_class, prompt=p.prompt, metrics=row)
        for (p, _), row in ranked[:_WORST]
    ]


def _below_sight(
    settings: VerifySettings, comparisons: Sequence[Comparison], entries: Sequence[FloorEntry]
) -> list[str]:
    """Small and real are two questions: name differences that count as none but are no accident."""
    if settings.strict or not settings.floors:
        return []
    measured = noise_floor(entries, strict=True)
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


def _standing_aside(comparisons: Sequence[Comparison]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for c in comparisons:
        if c.stands_aside:
            reasons.setdefault((c.metric, c.stands_aside), []).append(c.content_class)
    return [
        f"{metric} stands aside ({', '.join(names)}): {reason}."
        for (metric, reason), names in reasons.items()
    ]


def _notes(settings: VerifySettings, faults: Sequence[Trip]) -> list[str]:
    notes = []
    if not settings.floors:
        notes.append(
            f"The noise floor is the resolution of {EIGHT_BIT} pictures alone; the baseline "
            "was not made a second time."
        )
    broken = [trip for trip in faults if trip.side == "baseline"]
    if broken:
        notes.append(
            f"{len(broken)} pictures of the baseline itself look broken: {broken[0].reason}."
        )
    notes.append(f"A class needs {FEWEST} pairs to be decided separately.")
    return notes
