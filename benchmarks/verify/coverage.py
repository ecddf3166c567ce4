"""How often is 'equivalent' said by mistake, by the number of pairs and their skewness?

Regime: simulated distances whose true mean lies exactly on the margin, so that 'equivalent' is
wrong and may be said in 5 % of sets. Ceiling: 5 %, by any test that has power; no test holds for
every distribution (Bahadur and Savage 1956), as the mixture in the last row shows: a tenth of the
pairs carries half of the mean, and five pairs often hold none of it. That is what the rule for
single pairs and the bound on the share of visible differences are for.

    python -m benchmarks.verify.coverage --out benchmarks/results/verify_coverage.json
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.frame import Frame
from halftime.base.stats import bootstrap
from halftime.verbs.verify.means import distance_mean, signed_mean

COUNTS = (5, 8, 16, 50, 200)
LIMIT = 1.0
Draw = Callable[[np.random.Generator, int], np.ndarray]


def log_normal(sigma: float) -> Draw:
    return lambda rng, count: np.exp(rng.normal(-(sigma**2) / 2, sigma, count))


def gamma(shape: float) -> Draw:
    return lambda rng, count: rng.gamma(shape, 1 / shape, count)


# name -> skewness, draws with a mean of 1
FAMILIES: dict[str, tuple[float, Draw]] = {
    "normal, sd 0.3": (0.0, lambda rng, count: rng.normal(1, 0.3, count)),
    "log-normal 0.3": (0.95, log_normal(0.3)),
    "gamma 4": (1.0, gamma(4)),
    "log-normal 0.6": (2.26, log_normal(0.6)),
    "exponential": (2.0, gamma(1)),
    "gamma 0.5": (2.83, gamma(0.5)),
    "log-normal 1.0": (6.18, log_normal(1.0)),
    "log-normal 1.5": (33.5, log_normal(1.5)),
    "a tenth at 5.5, else 0.5": (
        2.67,
        lambda rng, count: np.where(rng.random(count) < 0.1, 5.5, 0.5),
    ),
}
METHODS: dict[str, Callable[[np.ndarray], float]] = {
    "percentile bootstrap": lambda values: (
        bootstrap(values, lambda sample: sample.mean(axis=-1), confidence=0.9, resamples=1000).high
    ),
    "Student": lambda values: signed_mean(values, 0.9).high,
    "verify": lambda values: distance_mean(values, 0.9, LIMIT, np.inf).high,
}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--sets", type=int, default=1000, help="simulated sets of each kind")
    options = frame.parse()
    rows = []
    for family, (skewness, draw) in FAMILIES.items():
        for count in COUNTS:
            rng = np.random.default_rng(count)
            sets = [draw(rng, count) for _ in range(options.sets)]
            errors = {
                name: float(np.mean([high(values) < LIMIT for values in sets]))
                for name, high in METHODS.items()
            }
            # And how often a set is found equivalent whose mean is a third of the margin.
            power = float(np.mean([METHODS["verify"](values / 3) < LIMIT for values in sets]))
            rows.append(
                {"family": family, "skewness": skewness, "pairs": count, "power": power} | errors
            )
            print(f"{family:26s} {count:4d} pairs ", {k: round(v, 3) for k, v in errors.items()})
    frame.write({"sets": options.sets, "meant": 0.05, "rows": rows})


if __name__ == "__main__":
    main()
