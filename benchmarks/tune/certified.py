"""Is the certificate of `tune --visible` kept, what does it gain, and what do fixed settings do?

Regime: the distances of `benchmarks.tune.draw`, 500 prompts of the bundled model. 100 times the
prompts are split at random: 24 for the search, 240 for the tests, the other 236 for the truth,
which nobody chose by. Search, order and tests are `halftime.verbs.tune.race`'s, as `tune --visible`
uses them, with the speedups of `benchmarks.tune.speed`. Then hard prompts: after the first full
steps of a cached call a score says which go on in full (`halftime.verbs.tune.hard`).

    python -m benchmarks.tune.certified --out benchmarks/results/tune_certified.json

Bar: at alpha 2 % and 5 % the true share of what is certified is at most alpha in at least 95 of 100
calibrations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.frame import Frame
from benchmarks.tables import RESULTS
from benchmarks.tune.draw import numbers
from halftime.base.certain import fewest_alike, fixed_sequence
from halftime.base.stats import largest_share, median
from halftime.base.store import read_json
from halftime.records.benchmark import Benchmark, Measured
from halftime.verbs.tune.hard import Routed, calibrate, route
from halftime.verbs.tune.race import ROUNDS, Raced, ShareTest, hopeless, order, share_test
from halftime.verbs.verify.ruler import size_of

SEARCHED, DRAWS, REPEATS = ROUNDS[-1], 240, 100
CONFIDENCE = 0.95
ALPHAS = (0.02, 0.05)
# As others ship them: fewer steps, guidance on part of them, a cache at its default interval.
FIXED = ("loop, 20 steps", "guidance to 70 %", "cache, every 3")
CHEAP, FULL_STEPS = "cache, every 3, 10 full steps", 10


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


def searched(
    sizes: Mapping[str, np.ndarray],
    speedups: Mapping[str, float],
    prompts: np.ndarray,
    alpha: float,
) -> list[Raced[str]]:
    """The search: rounds of more pictures, as long as a setting may win."""
    raced = []
    for name, values in sizes.items():
        seen = values[prompts]
        for count in ROUNDS:
            if hopeless(seen[:count].tolist(), alpha):
                break
        raced.append(Raced(name, speedups[name], tuple(seen[:count].tolist())))
    return raced


def calibration(
    sizes: Mapping[str, np.ndarray],
    speedups: Mapping[str, float],
    alpha: float,
    rng: np.random.Generator,
) -> dict[str, object]:
    """One split: what is certified, and what it does on prompts that nobody chose by."""
    prompts = rng.permutation(len(next(iter(sizes.values()))))
    search, tests = prompts[:SEARCHED], prompts[SEARCHED : SEARCHED + DRAWS]
    future = prompts[SEARCHED + DRAWS :]
    draws = fewest_alike(DRAWS, alpha, CONFIDENCE)
    queue = order(searched(sizes, speedups, search, alpha), draws, alpha, CONFIDENCE)

    def test(raced: Raced[str]) -> ShareTest:
        return share_test(sizes[raced.setting][tests[:draws]].tolist(), draws, alpha, CONFIDENCE)

    results = fixed_sequence(queue, test, lambda result: result.passed)
    passed = [raced for raced, result in zip(queue, results, strict=False) if result.passed]
    if not passed:
        return {"setting": None}
    name = passed[-1].setting
    return {
        "setting": name,
        "true_share": float((sizes[name] > 1).mean()),
        "future_share": float((sizes[name][future] > 1).mean()),
        "speedup": speedups[name],
    }


def kept(distances: Mapping[str, Measured], timed: Mapping[str, Measured]) -> dict[str, object]:
    """All calibrations, the fixed settings beside them, and the hard prompts."""
    rows: list[dict[str, float]] = timed["settings"]  # type: ignore[assignment]
    speedups = {str(row["setting"]): row["speedup"] for row in rows}
    sizes = {name: values for name, values in sizes_of(distances).items() if name in speedups}
    return {
        "limits": distances["limits"],
        "searched": SEARCHED,
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "certificates": [_row(sizes, speedups, alpha) for alpha in ALPHAS],
        "settings": [_setting(name, values, speedups) for name, values in sizes.items()],
        "hard_prompts": hard_prompts(sizes, speedups, distances),
    }


def _row(
    sizes: Mapping[str, np.ndarray], speedups: Mapping[str, float], alpha: float
) -> dict[str, object]:
    rng = np.random.default_rng(0)
    runs = [calibration(sizes, speedups, alpha, rng) for _ in range(REPEATS)]
    given = [run for run in runs if run["setting"] is not None]
    names = [str(run["setting"]) for run in given]
    certified_speedups = [float(run["speedup"]) for run in given]  # type: ignore[arg-type]
    return {
        "alpha_share": alpha,
        "calibrations": REPEATS,
        "given": len(given),
        "kept": REPEATS - sum(float(run["true_share"]) > alpha for run in given),  # type: ignore[arg-type]
        "future_share": float(np.mean([run["future_share"] for run in given])) if given else None,
        "speedup": median(certified_speedups) if given else None,
        "chosen": {name: names.count(name) for name in dict.fromkeys(names)},
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


def hard_prompts(
    sizes: Mapping[str, np.ndarray],
    speedups: Mapping[str, float],
    distances: Mapping[str, Measured],
) -> list[dict[str, object]]:
    """At each alpha: the router's share, saving and true error over the same splits."""
    if CHEAP not in sizes:
        return []
    lines: list[str] = distances["steps"]  # type: ignore[assignment]
    steps = np.array([numbers(line).reshape(-1, 2)[:FULL_STEPS] for line in lines])
    features = np.log(np.maximum(steps[:, 1:].reshape(len(steps), -1), 1e-6))
    cheap, full = sizes[CHEAP], sizes["bf16"]
    saving = 1 - speedups["bf16"] / speedups[CHEAP]
    rows = []
    for alpha in ALPHAS:
        rng = np.random.default_rng(1)
        runs = [_routed(features, cheap, full, alpha, rng) for _ in range(REPEATS)]
        shares = [run.cheap_share for run, _ in runs]
        oracle = float((cheap <= 1).mean())
        rows.append(
            {
                "alpha_share": alpha,
                "kept": sum(error <= alpha for _, error in runs),
                "cheap_share": float(np.mean(shares)),
                "saving_share": float(np.mean(shares)) * saving,
                "oracle_saving_share": oracle * saving,
                "of_oracle_ratio": float(np.mean(shares)) / oracle,
                "cheap_different_share": float((cheap > 1).mean()),
                "future_share": float(np.mean([error for _, error in runs])),
            }
        )
    return rows


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
