"""The simulation of the step policies: who waits for whom, on a clock that is only a number."""

from __future__ import annotations

import itertools
import random

import pytest

from halftime.base.stats import poisson
from halftime.verbs.serve.step_simulator import (
    Costs,
    Rules,
    SimulatedOutcome,
    SimulatedRequest,
    bursty,
    simulate,
)

COSTS = Costs(step={64: 0.1}, around={64: 0.5})
CALL, STEP = Rules("call", "first-come"), Rules("step", "head-start")


def arrival(name: str, at: float, steps: int, **changes: object) -> SimulatedRequest:
    return SimulatedRequest(name, at, steps, 64, **changes)  # type: ignore[arg-type]


def ends(
    arrivals: list[SimulatedRequest], rules: Rules, costs: Costs = COSTS
) -> list[float | None]:
    return [outcome.ended for outcome in simulate(arrivals, costs, rules)]


def test_a_short_one_waits_for_the_call_or_for_the_step() -> None:
    long, short = arrival("long", 0.0, 30), arrival("short", 1.05, 4)
    assert ends([long, short], CALL) == pytest.approx([3.5, 4.4])
    assert ends([long, short], STEP) == pytest.approx([4.4, 2.0])  # after the step that was begun


def test_a_batch_shares_a_pass_where_it_pays() -> None:
    costs = COSTS._replace(batch={1: 1.0, 2: 1.2})
    both = [arrival("a", 0.0, 10), arrival("b", 0.0, 10)]
    alone, together = ends(both, STEP), ends(both, STEP, costs)
    assert alone == pytest.approx([1.5, 3.0])
    # a step before the other came, 9 shared ones of 0.12, what is around its loop; then the same
    assert together == pytest.approx([0.1 + 9 * 0.12 + 0.5, 0.1 + 9 * 0.12 + 0.5 + 0.1 + 0.5])


def test_what_is_before_the_loop_belongs_to_its_first_turn() -> None:
    costs = COSTS._replace(before={64: 0.2})
    long, short = arrival("long", 0.0, 3), arrival("short", 0.25, 1)
    # 0.2 and a step; the short one whole; two steps and the 0.3 that come after
    assert ends([long, short], STEP, costs) == pytest.approx([1.4, 0.9])


def test_who_comes_during_a_turn_is_let_in_as_things_are_at_its_end() -> None:
    rules = Rules("call", "first-come", admission=True)
    coming = [arrival("a", 0.0, 10), arrival("b", 0.9, 10, deadline=2.1)]
    assert ends(coming, rules) == pytest.approx([1.5, None])
    coming[1] = coming[1]._replace(deadline=3.01)  # 1.5 for what is left of a, and its own 1.5
    assert ends(coming, rules) == pytest.approx([1.5, 3.0])


def test_admission_refuses_what_would_be_late_and_keeps_its_promises() -> None:
    rules = Rules("step", "deadline", admission=True)
    coming = [
        arrival("a", 0.0, 10, deadline=1.6),
        arrival("b", 0.1, 10, deadline=1.7),
        arrival("c", 0.2, 10, deadline=3.2),
    ]
    outcomes = simulate(coming, COSTS, rules)
    assert [outcome.ended is None for outcome in outcomes] == [False, True, False]
    assert all(outcome.met for outcome in outcomes if outcome.ended is not None)


def under_load(load: float, rules: Rules, count: int = 600) -> list[SimulatedOutcome]:
    rng = random.Random(0)
    mean = sum(COSTS.alone(arrival("", 0.0, steps)) for steps in (4, 12, 30)) / 3
    moments = poisson(load * rules.workers / mean, rng)
    coming = [
        arrival(str(number), at, rng.choice((4, 12, 30)))
        for number, at in zip(range(count), moments, strict=False)
    ]
    return simulate(coming, COSTS, rules)


def p99(outcomes: list[SimulatedOutcome], steps: int) -> float:
    seconds = sorted(one.seconds for one in outcomes if one.arrival.steps == steps)
    return seconds[int(0.99 * len(seconds))]


def test_the_tail_of_short_ones_falls_and_long_ones_pay_a_little() -> None:
    call, step = under_load(0.8, CALL), under_load(0.8, STEP)
    assert p99(step, 4) < p99(call, 4) / 6
    assert p99(step, 30) < 1.5 * p99(call, 30)
    last = max(one.ended or 0.0 for one in call), max(one.ended or 0.0 for one in step)
    assert last[0] == pytest.approx(last[1], rel=0.02)  # the same work


def test_several_workers_share_it() -> None:
    eight = under_load(0.8, STEP._replace(workers=8))
    one = under_load(0.8, STEP)
    assert p99(eight, 30) < p99(one, 30)


def test_bursts_have_the_same_rate() -> None:
    moments = list(itertools.islice(bursty(2.0, random.Random(0)), 4000))
    assert moments == sorted(moments)
    assert len(set(moments)) == 1000
    assert 4000 / moments[-1] == pytest.approx(2.0, rel=0.1)
