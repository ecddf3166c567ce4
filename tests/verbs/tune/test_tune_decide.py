"""The decisions, with played-back timings: keep or drop, budget, bisection, Pareto front."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.errors import BadInput
from halftime.records.tune import SweepPoint, Trial
from halftime.testing import FakeClock
from halftime.verbs.tune.decide import (
    Budget,
    Goal,
    cheapest,
    gain,
    pareto,
    pays,
    stacked,
    suspects,
    trial_seconds,
    undecided,
)
from halftime.verbs.tune.sweep import choice_of, marked


def trial(
    incumbent: list[float], candidate: list[float], baseline: list[float] | None = None
) -> Trial:
    return Trial(
        incumbent_plan=(),
        candidate_plan=(),
        baseline=tuple(baseline or incumbent),
        incumbent=tuple(incumbent),
        candidate=tuple(candidate),
    )


def test_drift_cancels_in_pairs() -> None:
    drift = [1.0, 1.5, 2.2, 3.1, 4.0, 5.0, 6.3]
    steady = trial(drift, [0.8 * x for x in drift])
    assert gain(steady).value == pytest.approx(1.25)
    assert pays(steady)
    assert not undecided(steady)


def test_noise_does_not_pay_and_a_loss_is_dropped() -> None:
    noisy = trial([1.0, 1.1, 0.9, 1.2, 1.0, 0.95, 1.05], [1.05, 0.9, 1.1, 1.0, 1.02, 0.96, 1.0])
    assert not pays(noisy)
    assert not pays(trial([1.0] * 7, [1.2] * 7))
    assert not undecided(trial([1.0] * 7, [1.2] * 7))


def test_what_is_near_but_open_is_measured_on() -> None:
    open_one = trial([1.0] * 7, [0.9, 1.05, 0.92, 0.94, 1.04, 0.93, 1.06])
    assert undecided(open_one)
    assert not undecided(trial([1.0] * 7, [1.001, 0.999, 1.0, 1.0, 1.0, 1.001, 0.999]))


def test_faster_than_what_stands_but_slower_than_the_baseline_is_not_kept() -> None:
    assert not pays(trial([2.0] * 7, [1.5] * 7, baseline=[1.0] * 7))


def test_a_failure_never_pays() -> None:
    failed = Trial(incumbent_plan=(), candidate_plan=(), failure="RuntimeError: no")
    assert not pays(failed)
    assert not undecided(failed)


@given(st.integers(1, 30), st.data())
def test_bisection_finds_the_planted_fix_in_few_questions(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, count - 1))
    asked = []

    def passes(prefix: object) -> bool:
        asked.append(prefix)
        return bad not in prefix  # type: ignore[operator]

    assert suspects(list(range(count)), passes) == [bad]
    assert len(asked) <= count.bit_length()


@given(st.integers(2, 30), st.data())
def test_where_bisection_has_no_time_what_passed_stays_and_the_culprit_goes(
    count: int, data: st.DataObject
) -> None:
    bad, questions = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 4))
    asked: list[object] = []

    def passes(prefix: object) -> bool:
        asked.append(prefix)
        return bad not in prefix  # type: ignore[operator]

    accused = suspects(list(range(count)), passes, lambda prefix: len(asked) < questions)
    assert bad in accused
    assert len(asked) <= questions
    assert accused[-1] == count - 1 or len(accused) == 1


def test_the_budget_counts_what_an_interrupted_run_spent() -> None:
    clock = FakeClock()
    budget = Budget(100.0, lambda: clock.now, spent_before=30.0, reserve=20.0)
    clock.advance(10.0)
    assert budget.spent() == 40.0
    assert budget.left() == 40.0
    assert budget.allows(40.0)
    assert not budget.allows(40.1)


def test_a_trial_is_priced_before_it_is_started() -> None:
    assert trial_seconds(1.0, 0.5, 6.0) == pytest.approx(6.0 + 7.0 + 17 * 0.5)


def test_goals() -> None:
    assert Goal(seconds=2.0).reached(1.9, 1.1)
    assert not Goal(seconds=2.0).reached(2.1, 9.0)
    assert Goal(speedup=2.0).reached(9.0, 2.0)
    assert not Goal().reached(0.001, 100.0)
    assert [str(Goal()), str(Goal(seconds=2.0)), str(Goal(speedup=2.0))] == [
        "best",
        "2.00 s",
        "2.00x",
    ]


@pytest.mark.parametrize(
    "values", [{"seconds": 0.0}, {"speedup": -1.0}, {"seconds": 1.0, "speedup": 2.0}]
)
def test_impossible_goals_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Goal(**values)


def point(seconds: float, flip: float, steps: int = 10, agreement: float = 0.0) -> SweepPoint:
    return SweepPoint(
        scheduler="Euler", steps=steps, seconds=seconds, flip=flip, agreement=agreement
    )


def test_the_front_and_the_cheapest_point_inside_the_loss() -> None:
    points = marked(
        [point(1.0, 0.01), point(0.5, 0.04), point(0.6, 0.05), point(0.2, 0.2)], loss=0.045
    )
    assert [p.pareto for p in points] == [True, True, False, True]
    assert [p.chosen for p in points] == [False, True, False, False]
    assert cheapest(points) is points[1]
    fallen = marked([point(0.1, 0.01, agreement=-0.5)], loss=0.05)
    assert choice_of(fallen, "Euler") is None
    choice = choice_of(points, "Euler")
    assert choice is not None
    assert choice.settings == {"scheduler": "", "steps": 10}


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=12))
def test_nothing_on_the_front_is_beaten(values: list[tuple[float, float]]) -> None:
    points = [point(*value) for value in values]
    front = [p for p, kept in zip(points, pareto(points), strict=True) if kept]
    assert front
    for p in points:
        assert any(f.seconds <= p.seconds and f.flip <= p.flip for f in front)


def test_speedups_of_a_trial_are_paired() -> None:
    assert stacked(trial([1.0, 2.0], [0.5, 1.0], baseline=[2.0, 4.0])).value == pytest.approx(4.0)
