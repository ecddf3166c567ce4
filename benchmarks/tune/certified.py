"""Is the certificate of `tune --visible` kept, what does it gain, and what do fixed settings do?

Regime: the distances of `benchmarks.tune.draw`, 500 prompts of the bundled model. 100 times the
prompts are split at random: 24 for the search and 72 more for the score of hard prompts, 240 for
the tests, the other 164 by which nobody chose. Search, order, tests and the choice between settings
and a router are those of `tune --visible`, with the speedups of `benchmarks.tune.speed`. Then the
router alone: 130 prompts for its score, 240 for its test.

    python -m benchmarks.tune.certified --out benchmarks/results/tune_certified.json

Bar: at alpha 2 % and 5 % the true share of what is certified is at most alpha in at least 95 of 100
calibrations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.frame import Frame
from benchmarks.tables import RESULTS
from benchmarks.tune.draw import RECIPE, numbers
from halftime.base.certain import fewest_alike, fixed_sequence
from halftime.base.stats import largest_share, median
from halftime.base.store import read_json
from halftime.records.benchmark import Benchmark, Measured
from halftime.verbs.tune.hard import Routed, calibrate, foreseen, route
from halftime.verbs.tune.race import (
    ROUNDS,
    Raced,
    ShareTest,
    expected_speedup,
    hopeless,
    order,
    share_test,
)
from halftime.verbs.tune.routing import LEARNED, mixed
from halftime.verbs.tune.visible_goal import SEARCHED
from halftime.verbs.verify.ruler import size_of

DRAWS, REPEATS = 240, 100
LEARNING = SEARCHED + LEARNED
CONFIDENCE = 0.95
ALPHAS = (0.02, 0.05)
# As others ship them: fewer steps, guidance on part of them, a cache at its default interval.
FIXED = ("20 steps", "guidance to 70 %", "cache, every 3")
CHEAP, FULL_STEPS = "cache, every 3, 9 full steps", 9


def result_of(name: str) -> dict[str, Measured]:
    """A committed result."""
    return read_json(RESULTS / f"{name}.json", Benchmark).result


# ---- whether the certificate is kept


def sizes_of(distances: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    """Setting -> how far each pair is apart, in units of what is just not visible."""
    limits = distances["limits"]
    assert isinstance(limits, dict)
    settings: list[dict[str, str]] = distances["settings"]  # type: ignore[assignment]
    sizes = {}
    for row in settings:
        columns = zip(*(numbers(row[name]) for name in limits), strict=True)
        pairs = [size_of(dict(zip(limits, values, strict=True)), limits) for values in columns]  # type: ignore[arg-type]
        sizes[str(row["setting"])] = np.array(pairs)
    return sizes


class Drawings(NamedTuple):
    """What was drawn and timed of all prompts."""

    sizes: Mapping[str, np.ndarray]  # by setting
    speedups: Mapping[str, float]
    features: np.ndarray  # (prompts, features) of the first full steps

    @property
    def prompts(self) -> int:
        return len(self.features)


def searched(drawings: Drawings, prompts: np.ndarray, alpha: float) -> list[Raced[str]]:
    """The search: rounds of more pictures, as long as a setting may win."""
    raced = []
    for name, sizes in drawings.sizes.items():
        seen = sizes[prompts].tolist()
        count = next((stop for stop in ROUNDS if hopeless(seen[:stop], alpha)), SEARCHED)
        raced.append(Raced(name, drawings.speedups[name], tuple(seen[:count])))
    return raced


class Splits(NamedTuple):
    """The prompts of one calibration."""

    learning: np.ndarray  # of search and score; the search's are the first
    tests: np.ndarray
    future: np.ndarray  # by which nobody chose

    @classmethod
    def drawn(cls, rng: np.random.Generator, prompts: int) -> Splits:
        """At random."""
        learning, tests, future = np.split(rng.permutation(prompts), [LEARNING, LEARNING + DRAWS])
        return cls(learning, tests, future)


def calibration(drawings: Drawings, alpha: float, splits: Splits) -> dict[str, object]:
    """One split: what is certified, by a setting or by a router as `tune --visible` decides, and
    what it does on prompts that nobody chose by."""
    draws = fewest_alike(DRAWS, alpha, CONFIDENCE)
    race = searched(drawings, splits.learning[:SEARCHED], alpha)
    queue = order(race, draws, alpha, CONFIDENCE)
    recipe = drawings.speedups[RECIPE]
    both_ways = drawings.features, drawings.sizes[CHEAP], drawings.sizes[RECIPE]
    share = foreseen(*(part[splits.learning] for part in both_ways), draws, alpha, CONFIDENCE)
    routed_speedup = mixed(share, drawings.speedups[CHEAP], recipe)
    if routed_speedup > expected_speedup(queue, draws, alpha, CONFIDENCE, recipe):
        return by_router(drawings, alpha, splits, splits.tests[:draws])

    def test(raced: Raced[str]) -> ShareTest:
        tests = drawings.sizes[raced.setting][splits.tests[:draws]]
        return share_test(tests.tolist(), draws, alpha, CONFIDENCE)

    results = fixed_sequence(queue, test, lambda result: result.passed)
    passed = [raced for raced, result in zip(queue, results, strict=False) if result.passed]
    if not passed:
        return {"setting": None}
    name = passed[-1].setting
    return _certified(name, drawings.sizes[name], splits, drawings.speedups[name])


def by_router(
    drawings: Drawings, alpha: float, splits: Splits, tests: np.ndarray
) -> dict[str, object]:
    """A score of the first steps, learned and certified."""
    cheap, full = drawings.sizes[CHEAP], drawings.sizes[RECIPE]
    routed = calibrate(drawings.features, cheap, full, splits.learning, tests, alpha, CONFIDENCE)
    if routed.threshold == -np.inf:
        return {"setting": None}
    sizes = np.where(route(routed, drawings.features), cheap, full)
    speedup = mixed(routed.cheap_share, drawings.speedups[CHEAP], drawings.speedups[RECIPE])
    return _certified(f"{CHEAP}, hard prompts without", sizes, splits, speedup)


def _certified(name: str, sizes: np.ndarray, splits: Splits, speedup: float) -> dict[str, object]:
    rest = np.concatenate([splits.tests, splits.future])
    return {
        "setting": name,
        "true_share": float((sizes[rest] > 1).mean()),
        "future_share": float((sizes[splits.future] > 1).mean()),
        "speedup": speedup,
    }


def kept(distances: Mapping[str, Measured], timed: Mapping[str, Measured]) -> dict[str, object]:
    """All calibrations, the fixed settings beside them, and the hard prompts."""
    rows: list[dict[str, float]] = timed["settings"]  # type: ignore[assignment]
    speedups = {str(row["setting"]): row["speedup"] for row in rows}
    sizes = {name: values for name, values in sizes_of(distances).items() if name in speedups}
    drawings = Drawings(sizes, speedups, features_of(distances))
    return {
        "limits": distances["limits"],
        "searched": SEARCHED,
        "learned": LEARNING,
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "certificates": [_row(drawings, alpha) for alpha in ALPHAS],
        "settings": [_setting(name, values, speedups) for name, values in sizes.items()],
        "hard_prompts": [_hard_prompts(drawings, alpha) for alpha in ALPHAS],
    }


def _row(drawings: Drawings, alpha: float) -> dict[str, object]:
    rng = np.random.default_rng(0)
    splits = [Splits.drawn(rng, drawings.prompts) for _ in range(REPEATS)]
    runs = [calibration(drawings, alpha, split) for split in splits]
    given = [run for run in runs if run["setting"] is not None]
    names = Counter(str(run["setting"]) for run in given)
    recipe = drawings.speedups[RECIPE]
    # where nothing is certified the recipe stays as it is
    gains = [float(run.get("speedup", recipe)) for run in runs]  # type: ignore[arg-type]
    return {
        "alpha_share": alpha,
        "calibrations": REPEATS,
        "given": len(given),
        "kept": REPEATS - sum(float(run["true_share"]) > alpha for run in given),  # type: ignore[arg-type]
        "future_share": float(np.mean([run["future_share"] for run in given])) if given else None,
        "speedup": median(gains),
        "chosen": dict(names.most_common()),
    }


def _setting(name: str, values: np.ndarray, speedups: Mapping[str, float]) -> dict[str, object]:
    different = int((values > 1).sum())
    return {
        "setting": name,
        "fixed elsewhere": name in FIXED,
        "speedup": speedups[name],
        "different": different,
        "visible_share": different / len(values),
        "at_most_share": largest_share(different, len(values), confidence=CONFIDENCE),
        "median_size": float(np.median(values)),
        "largest_size": float(values.max()),
    }


# ---- hard prompts


def features_of(distances: Mapping[str, Measured]) -> np.ndarray:
    """(prompts, features): what the first full steps showed of each."""
    lines: list[str] = distances["steps"]  # type: ignore[assignment]
    steps = np.array([numbers(line).reshape(-1, 2)[:FULL_STEPS] for line in lines])
    return np.log(np.maximum(steps[:, 1:].reshape(len(steps), -1), 1e-6))


def _hard_prompts(drawings: Drawings, alpha: float) -> dict[str, object]:
    """The router's share, saving and true error over the same number of splits."""
    cheap, full = drawings.sizes[CHEAP], drawings.sizes[RECIPE]
    recipe = drawings.speedups[RECIPE]

    def saving(share: float) -> float:
        return 1 - recipe / mixed(share, drawings.speedups[CHEAP], recipe)

    rng = np.random.default_rng(1)
    runs = [_routed(drawings.features, cheap, full, alpha, rng) for _ in range(REPEATS)]
    share = float(np.mean([run.cheap_share for run, _ in runs]))
    oracle = float((cheap <= 1).mean())
    return {
        "alpha_share": alpha,
        "kept": sum(error <= alpha for _, error in runs),
        "cheap_share": share,
        "saving_share": saving(share),
        "oracle_saving_share": saving(oracle),
        "of_oracle_ratio": saving(share) / saving(oracle),
        "cheap_different_share": float((cheap > 1).mean()),
        "future_share": float(np.mean([error for _, error in runs])),
    }


def _routed(
    features: np.ndarray,
    cheap: np.ndarray,
    full: np.ndarray,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Routed, float]:
    """A router, and the share of pictures that differ with it on prompts that taught it nothing."""
    prompts = rng.permutation(len(cheap))
    learning, tests, future = prompts[:130], prompts[130:370], prompts[370:]
    routed = calibrate(features, cheap, full, learning, tests, alpha, CONFIDENCE)
    drawn = np.where(route(routed, features), cheap, full)
    return routed, float((drawn[tests] > 1).sum() + (drawn[future] > 1).sum()) / (
        len(tests) + len(future)
    )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parse()
    frame.write(kept(result_of("tune_draw"), result_of("tune_speed")))


if __name__ == "__main__":
    main()
