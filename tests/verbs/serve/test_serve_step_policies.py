"""Whose step is next, and who is let in: laws of pure functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.records.serve import PolicyName
from halftime.verbs.serve.admission import Turns
from halftime.verbs.serve.step_policies import (
    POLICIES,
    Task,
    ahead,
    earliest_deadline,
    finishes,
    fits,
    late,
    next_batch,
    order,
    overtaken_for,
)

NAMES: tuple[PolicyName, ...] = tuple(POLICIES)
STEP = 0.5


LONGEST = 2.0  # seconds


def task(number: int, arrived: float = 0.0, seconds: float = 1.0, **changes: object) -> Task:
    values = {"whole": seconds, "longest": LONGEST} | changes
    return Task(f"t{number}", number, arrived, seconds, **values)  # type: ignore[arg-type]


@st.composite
def lines(draw: st.DrawFn) -> list[Task]:
    """Requests that came one after another, with tags as the queue gives them."""
    turns, tasks, now = Turns(), list[Task](), 0.0
    for number in range(draw(st.integers(1, 6))):
        now += draw(st.sampled_from([0.0, 0.5, 3.0]))
        steps = draw(st.integers(1, 6))
        client = draw(st.sampled_from("ab"))
        (tag,) = turns.tags(client, [steps * STEP])
        turns.add(client, tag)
        due = draw(st.sampled_from([math.inf, 1.0, 4.0, 9.0]))
        tasks.append(task(number, now, steps * STEP, deadline=now + due, tag=tag))
    return tasks


def drawn(tasks: list[Task], policy: PolicyName) -> tuple[list[str], dict[str, float]]:
    """A worker that takes a step at a time: whose each was, and when each request was done."""
    coming, here, now = list(tasks), list[Task](), 0.0
    steps, ends = list[str](), dict[str, float]()
    while coming or here:
        while coming and coming[0].arrived <= now:
            here.append(coming.pop(0))
        if not here:
            now = coming[0].arrived
            continue
        first = next_batch(here, policy, (1,))[0]
        here.remove(first)
        now += STEP
        steps.append(first.id)
        if first.seconds > STEP:
            here.append(first._replace(seconds=first.seconds - STEP))
        else:
            ends[first.id] = now
    return steps, ends


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.integers(1, 20), st.sampled_from([0.5, 1.0, 2.0]))
def test_nobody_starves(policy: PolicyName, steps: int, seconds: float) -> None:
    """A request beside a stream of others that fills the worker for ever: it is done within the
    time in which it may be overtaken, what had come by then, and its own steps."""
    turns = Turns()
    (tag,) = turns.tags("a", [steps * STEP])
    waiting = task(0, 0.0, steps * STEP, tag=tag)
    waiting = waiting._replace(deadline=60.0)
    bound = overtaken_for(waiting, policy) + waiting.seconds + 2 * seconds
    stream = list[Task]()
    for number in range(1, 10 + max(500, int(bound / seconds))):
        now = number * seconds
        (tag,) = turns.tags("b", [seconds])
        turns.add("b", tag)
        stream.append(task(number, now, seconds, deadline=now + 2 * seconds, tag=tag))
    _, ends = drawn([waiting, *stream], policy)
    assert ends[waiting.id] <= bound < stream[-1].arrived
    newcomers = [other for other in stream if other.arrived > bound]
    assert all(order([other, waiting], policy)[0] is waiting for other in newcomers)


@settings(max_examples=60)
@given(lines(), st.sampled_from(NAMES))
def test_without_newcomers_the_forecast_is_what_happens(
    tasks: list[Task], policy: PolicyName
) -> None:
    together = [member._replace(arrived=0.0) for member in tasks]
    _, ends = drawn(together, policy)
    assert finishes(together, policy, 0.0) == pytest.approx(ends)


def test_short_ones_overtake_and_old_ones_do_not_wait_for_ever() -> None:
    long, short = task(0, 0.0, 0.4), task(1, 1.0, 0.1)
    assert order([long, short], "shortest") == [short, long]
    assert order([long, short], "first-come") == [long, short]
    after = 0.4 / 0.05
    assert order([long, task(1, after + 0.01, 0.0)], "shortest")[0] is long


def test_the_head_start_grows_with_the_square_of_how_much_shorter_a_request_is() -> None:
    long, half, short = task(0, seconds=2.0), task(1, seconds=1.0), task(2, seconds=0.2)
    assert [ahead(one) for one in (long, half, short)] == pytest.approx([1.8, 7.2, 180.0])
    assert ahead(task(3, seconds=0.001)) == pytest.approx(180.0)  # at most
    assert order([long, half], "head-start") == [half, long]
    # who came more than the difference earlier is not overtaken; nor does what was drawn count
    begun = half._replace(arrived=5.5, seconds=0.1)
    assert order([long, begun], "head-start") == [long, begun]


def test_by_deadline_and_in_turns() -> None:
    early, later = task(0, deadline=9.0, tag=1.0), task(1, deadline=3.0, tag=2.0)
    assert order([early, later], "deadline") == [later, early]
    assert order([early, later], "fair") == [early, later]


def test_a_batch_is_of_the_firsts_shape_and_of_a_size_that_pays() -> None:
    tasks = [task(n, seconds=n, shape="large" if n == 1 else "small") for n in range(5)]
    assert [member.id for member in next_batch(tasks, "shortest", (1, 2))] == ["t0", "t2"]
    assert [member.id for member in next_batch(tasks, "shortest", (1, 4))] == [
        "t0",
        "t2",
        "t3",
        "t4",
    ]
    assert next_batch([], "shortest", (1,)) == []


@settings(max_examples=60)
@given(lines(), st.sampled_from(NAMES), st.sampled_from([1.0, 2.0, 5.0]))
def test_by_when_it_could_is_the_earliest_that_fits(
    tasks: list[Task], policy: PolicyName, seconds: float
) -> None:
    now = max(member.arrived for member in tasks)
    newcomer = task(99, now, seconds, tag=100.0)
    earliest = earliest_deadline(tasks, newcomer, policy, now)
    grid = [now + STEP * count / 2 for count in range(100)]
    possible = [
        moment for moment in grid if fits(tasks, newcomer._replace(deadline=moment), policy, now)
    ]
    if earliest is None:
        assert not possible
        return
    assert fits(tasks, newcomer._replace(deadline=earliest), policy, now)
    assert all(moment >= earliest - 1e-9 for moment in possible)


def test_who_makes_another_late_is_not_let_in() -> None:
    tasks = [task(0, seconds=2.0, deadline=2.5)]
    newcomer = task(1, seconds=1.0, deadline=2.0)
    assert late([*tasks, newcomer], "deadline", 0.0) == {"t0"}
    assert not fits(tasks, newcomer, "deadline", 0.0)
    assert earliest_deadline(tasks, newcomer, "deadline", 0.0) == 3.0
