"""What do short requests gain under each policy, and what do long ones pay? A simulated curve.

    python -m benchmarks.serve.step_curve --out benchmarks/results/serve_step_curve.json

No picture is drawn: one worker, the step times that benchmarks/results/serve_steps.json holds, the
arrivals and bars of benchmarks.serve.steps, 300 requests under each of several seeds; a row is the
median over them, beside call scheduling under the same arrivals. The policies are the server's own,
with its constants and with others. docs/serve-steps.md holds the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.frame import Frame
from benchmarks.serve.steps import KINDS, TIMES_SOLO, arrivals
from benchmarks.tables import ROOT, between, result, table
from halftime.base.stats import median, quantile
from halftime.verbs.serve import step_policies
from halftime.verbs.serve.step_simulator import Costs, Rules, SimulatedOutcome, simulate

PAGE = ROOT / "docs" / "serve-steps.md"
LOADS = (("poisson", 0.5), ("poisson", 0.8), ("poisson", 1.0), ("bursty", 0.8))
CALL = Rules("call", "first-come")
# a policy of the server, and the constant of it that is tried; None: it has none
CURVE = (
    ("first-come", None, 0.0),
    *(("shortest", "AGING", value) for value in (0.2, 0.1, step_policies.AGING, 0.02)),
    *(("head-start", "HEAD_START", value) for value in (0.3, 0.6, step_policies.HEAD_START, 2.0)),
)
LIMITS = {"p99_of_4_ratio": 1 / 6, "p99_of_30_ratio": 1.5, "within_3_solo_points": 25.0}


@contextmanager
def with_constant(name: str | None, value: float) -> Iterator[None]:
    """The policies with another constant."""
    before = dict(vars(step_policies))
    if name is not None:
        setattr(step_policies, name, value)
    try:
        yield
    finally:
        vars(step_policies).update(before)


def measured_costs() -> tuple[Costs, Costs]:
    """By the call and by the step, as the benchmark of the same name measured them."""
    costs = (result("serve_steps") or {})["costs"]
    return tuple(  # type: ignore[return-value]
        Costs(*(_by_size(costs[way].get(part, {})) for part in ("step", "around")))
        for way in ("call", "step")
    )


def _by_size(seconds: dict[str, float]) -> dict[int, float]:
    return {int(size): value for size, value in seconds.items()}


def compared(call: list[SimulatedOutcome], step: list[SimulatedOutcome], costs: Costs) -> dict:
    """One simulation beside call scheduling's."""

    def p99(outcomes: list[SimulatedOutcome], steps: int) -> float:
        return quantile([o.seconds for o in outcomes if o.arrival.steps == steps], 0.99)

    def within(outcomes: list[SimulatedOutcome]) -> float:
        limits = (TIMES_SOLO * costs.alone(outcome.arrival) for outcome in outcomes)
        return 100 * sum(o.seconds <= limit for o, limit in zip(outcomes, limits, strict=True))

    ratios = {f"p99_of_{steps}_ratio": p99(step, steps) / p99(call, steps) for steps in KINDS}
    return ratios | {"within_3_solo_points": (within(step) - within(call)) / len(call)}


def rows(count: int, seeds: int) -> list[dict]:
    """A row for each load and policy."""
    by_call, by_step = measured_costs()
    curve = []
    for pattern, load in LOADS:
        coming = [arrivals(load, pattern, count, by_call, seed) for seed in range(seeds)]
        calls = [simulate(one, by_call, CALL) for one in coming]
        for policy, constant, value in CURVE:
            with with_constant(constant, value):
                rules = Rules("step", policy)  # type: ignore[arg-type]
                steps = [simulate(one, by_step, rules) for one in coming]
            pairs = zip(calls, steps, strict=True)
            values = [compared(call, step, by_call) for call, step in pairs]
            middle = {name: median([one[name] for one in values]) for name in values[0]}
            curve.append(
                {"pattern": pattern, "load": load, "policy": policy, "constant": value, **middle}
            )
            print(curve[-1])
    return curve


def rewritten(page: str, curve: list[dict]) -> str:
    """The page with the table; what misses a bar is in bold."""

    def shown(row: dict, name: str, text: str) -> str:
        if name not in LIMITS or (name != "p99_of_30_ratio" and row["load"] != 0.8):
            return text
        reached = row[name] >= LIMITS[name] if "points" in name else row[name] <= LIMITS[name]
        return text if reached else f"**{text}**"

    cells = [
        [
            f"{row['load']:g} {row['pattern']}",
            row["policy"],
            f"{row['constant']:g}" if row["constant"] else "",
            *(
                shown(row, name, f"{row[name]:.2f}")
                for name in (f"p99_of_{steps}_ratio" for steps in KINDS)
            ),
            shown(row, "within_3_solo_points", f"{row['within_3_solo_points']:+.0f}"),
        ]
        for row in curve
    ]
    classes = [f"p99 of {steps}, step over call" for steps in KINDS]
    head = ("load", "policy", "constant", *classes, "points more within 3x")
    return between(page, "curve", table(head, cells))


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--requests", type=int, default=300)
    frame.parser.add_argument("--seeds", type=int, default=15)
    options = frame.parse()
    frame.write({"curve": rows(options.requests, options.seeds)})
    PAGE.write_text(rewritten(PAGE.read_text(), frame.earlier()["curve"]))


if __name__ == "__main__":
    main()
