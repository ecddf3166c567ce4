"""Eight GPUs and thousands of requests: what would scheduling at the step bring, and cost?

    python -m benchmarks.serve.planned_steps --out benchmarks/results/serve_planned_steps.json

No GPU was used. `halftime forecast` says what a step of SDXL takes on an H100, compiled, at 768 and
1024 px, what is around the loop, and what a second and fourth picture of a forward pass add; the
simulator draws 4, 12 and 30 steps at random with the server's own policies on eight such cards.
Capacity is that of pictures drawn one by one. A deadline is three times the request's own solo
time. The same arrivals under each way of scheduling. docs/serve-steps.md holds the table.
"""

from __future__ import annotations

import itertools

import halftime
from benchmarks.frame import Frame
from benchmarks.serve.steps import KINDS, PATTERNS, WAYS, arrivals, row, waits
from benchmarks.tables import ROOT, between, table
from halftime.verbs.forecast.scenario import ForecastSettings
from halftime.verbs.serve.step_simulator import Costs, simulate

PAGE = ROOT / "docs" / "serve-steps.md"
MODEL, GPU, WORKERS, SIDES, BATCHES = "sdxl", "H100", 8, (768, 1024), (1, 2, 4)
STEPS = 30  # of the forecast that a step is taken from
LOADS = (0.5, 0.8, 1.0, 1.5)


def seconds_of(side: int, batch: int) -> tuple[float, float]:
    """A step of so many pictures, and what is around the loop of one call."""
    settings = ForecastSettings(width=side, height=side, steps=STEPS, batch=batch, compiled=True)
    stages = {s.stage: s.seconds for s in halftime.forecast(MODEL, GPU, settings=settings).stages}
    step = stages.pop("denoise") / STEPS
    return step, sum(stages.values())


def forecast_costs() -> Costs:
    """As the simulator takes them; a batch pays as it does at the larger size."""
    alone = {side: seconds_of(side, 1) for side in SIDES}
    return Costs(
        {side: step for side, (step, _) in alone.items()},
        {side: around for side, (_, around) in alone.items()},
        {batch: seconds_of(SIDES[-1], batch)[0] / alone[SIDES[-1]][0] for batch in BATCHES},
    )


def cell(load: float, pattern: str, count: int, costs: Costs, seed: int) -> dict:
    """All ways under the same arrivals."""
    coming = arrivals(load * WORKERS, pattern, count, costs, seed, SIDES)
    ways = {
        name: row(simulate(coming, costs, rules._replace(workers=WORKERS)), costs)
        for name, rules in WAYS.items()
    }
    return {"load": load, "pattern": pattern, "requests": count} | ways


def rewritten(page: str, result: dict) -> str:
    """The page with the table."""
    head = ("load", "arrivals", "scheduling", *(f"p50, p99 of {steps}" for steps in KINDS))
    rows = [
        [
            f"{one['load']:g}",
            one["pattern"],
            way,
            *waits(one[way], "p50", "p99"),
            f"{one[way]['deadlines_met']:.0%}",
            f"{one[way]['refused'] / one['requests']:.0%}",
            f"{one[way]['pictures_a_second']:.1f}",
        ]
        for one in result["cells"]
        for way in WAYS
    ]
    columns = (*head, "deadlines met", "refused", "pictures a second")
    return between(page, "planned", table(columns, rows))


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--requests", type=int, default=4000, help="in a cell")
    options = frame.parse()
    costs = forecast_costs()
    frame.write(
        {
            "costs": {
                name: {str(k): v for k, v in getattr(costs, name).items()} for name in costs._fields
            },
            "cells": [
                cell(load, pattern, options.requests, costs, seed)
                for seed, (pattern, load) in enumerate(itertools.product(PATTERNS, LOADS))
            ],
        }
    )
    PAGE.write_text(rewritten(PAGE.read_text(), frame.earlier()))


if __name__ == "__main__":
    main()
