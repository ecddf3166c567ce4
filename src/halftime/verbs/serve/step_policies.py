"""Which requests take the next step, and who is let in: pure functions of plain data.

A policy is a key: the lowest goes first. None of the keys moves with time, and a request's own
never rises with a step it takes, so without newcomers each is drawn to its end, in the order of
the keys, and `finishes` is a sum. A newcomer overtakes where its key is lower; after
`overtaken_for` seconds none has one that is, so nobody starves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from halftime.records.serve import PolicyName

# Seconds of work that a second of waiting is worth: a request of 400 ms is overtaken by none that
# comes more than 8 s later.
AGING = 0.05
# Of the longest request's seconds: its own head start. One that is n times shorter has n * n such.
HEAD_START = 0.9
MOST_TIMES_SHORTER = 10.0  # that count; so the largest head start is 90 times the longest's seconds
# seconds after which a request without a deadline has its turn before all that came later
PATIENCE = 600.0


class Task(NamedTuple):
    """A request that is not done. Seconds; moments are on one clock."""

    id: str
    number: int  # in order of arrival
    arrived: float
    seconds: float  # that it still takes, alone
    deadline: float = math.inf
    tag: float = 0.0  # of fair queueing: the work of its client up to and with it, by its weight
    shape: Hashable = None  # equal where they may share a forward pass
    whole: float = 0.0  # seconds of all of it, alone
    longest: float = 0.0  # the same, of the longest request that is offered

    @property
    def due(self) -> float:
        """Its deadline; or the moment from which it is treated as if it had one."""
        return min(self.deadline, self.arrived + PATIENCE)


Key = tuple[float, ...]


def first_come(task: Task) -> Key:
    """In order of arrival."""
    return (task.number,)


def shortest(task: Task) -> Key:
    """Shortest remaining time, less `AGING` for each second since it came: comparing two, the
    moment of the comparison cancels out."""
    return (task.seconds + AGING * task.arrived, task.number)


def head_start(task: Task) -> Key:
    """In order of arrival, each with a head start that grows with the square of how much shorter
    it is than the longest. Short requests cost the others little, so they may overtake whatever is
    here; requests that are nearly as long as the longest go almost in turns, so the tail of long
    ones stays short."""
    return (task.arrived - ahead(task), task.number)


def ahead(task: Task) -> float:
    """Its head start, in seconds."""
    capped = task.longest < MOST_TIMES_SHORTER * task.whole
    shorter = task.longest / task.whole if capped else MOST_TIMES_SHORTER
    return HEAD_START * task.longest * shorter**2


def deadline(task: Task) -> Key:
    """Earliest deadline first."""
    return (task.due, task.number)


def fair(task: Task) -> Key:
    """In turns between clients, by weight: self-clocked fair queueing, as in `admission`."""
    return (task.tag, task.number)


POLICIES: Mapping[PolicyName, Callable[[Task], Key]] = {
    "head-start": head_start,
    "shortest": shortest,
    "deadline": deadline,
    "fair": fair,
    "first-come": first_come,
}


def overtaken_for(task: Task, policy: PolicyName, active: float = 0.0) -> float:
    """Seconds from its arrival after which nothing that comes goes before it. For `fair`, those
    of work that is done: `active` is the lowest tag when it came."""
    match policy:
        case "first-come":
            return 0.0
        case "head-start":
            return ahead(task._replace(whole=0.0)) - ahead(task)
        case "shortest":
            return task.seconds / AGING
        case "deadline":
            return max(0.0, task.due - task.arrived)
        case "fair":
            return max(0.0, task.tag - active)


def order(tasks: Sequence[Task], policy: PolicyName) -> list[Task]:
    """Who goes before whom."""
    return sorted(tasks, key=POLICIES[policy])


def next_batch(tasks: Sequence[Task], policy: PolicyName, sizes: Sequence[int]) -> list[Task]:
    """Who takes the next step: the first, and as many of its shape behind it as fill one of
    `sizes`, which holds 1. Formed anew before each forward pass."""
    if not tasks:
        return []
    line = order(tasks, policy)
    alike = [task for task in line if task.shape == line[0].shape]
    return alike[: largest(sizes, len(alike))]


def largest(sizes: Sequence[int], count: int) -> int:
    """The largest of `sizes`, which holds 1, that so many fill."""
    return max(size for size in sizes if size <= count)


# ---- who is let in


def finishes(
    tasks: Sequence[Task], policy: PolicyName, now: float, workers: int = 1
) -> dict[str, float]:
    """When each is done where nobody else comes."""
    end, ends = now, {}
    for task in order(tasks, policy):
        end += task.seconds / workers
        ends[task.id] = end
    return ends


def late(tasks: Sequence[Task], policy: PolicyName, now: float, workers: int = 1) -> set[str]:
    """Who would be done after its deadline."""
    ends = finishes(tasks, policy, now, workers)
    return {task.id for task in tasks if ends[task.id] > task.deadline}


def fits(
    tasks: Sequence[Task], newcomer: Task, policy: PolicyName, now: float, workers: int = 1
) -> bool:
    """Whether a newcomer makes nobody late, itself included, who would not have been without it."""
    return late([*tasks, newcomer], policy, now, workers) <= late(tasks, policy, now, workers)


def earliest_deadline(
    tasks: Sequence[Task], newcomer: Task, policy: PolicyName, now: float, workers: int = 1
) -> float | None:
    """By when the newcomer could be done: the earliest deadline with which it `fits`; None where
    there is none, since it would make another late with any.

    With a later deadline its end never comes sooner, and it delays fewer others; so only its end
    behind each of the others can be the answer.
    """

    def due(moment: float) -> Task:
        return newcomer._replace(deadline=moment)

    behind = [now, *(task.due for task in tasks), math.inf]
    ends = {finishes([*tasks, due(moment)], policy, now, workers)[newcomer.id] for moment in behind}
    possible = (
        end
        for end in sorted({*ends, *(moment for moment in behind if now < moment < math.inf)})
        if fits(tasks, due(end), policy, now, workers)
    )
    return next(possible, None)
