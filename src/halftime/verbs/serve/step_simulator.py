"""Workers as a discrete-event simulation, by the very policy functions that they draw by: what a
policy would do under a load that this machine cannot bear, or on machines that are not here.

Fed with measured seconds of a step and of what is around the loop. Requests come in an open loop:
nobody waits for an answer before the next one comes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from halftime.base.stats import poisson
from halftime.records.serve import PolicyName, Scheduling
from halftime.verbs.serve.step_policies import Task, fits, next_batch


class SimulatedRequest(NamedTuple):
    """One request. Seconds."""

    id: str
    at: float
    steps: int
    size: Hashable
    deadline: float = math.inf
    tag: float = 0.0


class Costs(NamedTuple):
    """Seconds by size, of one picture. `batch`: a forward pass of so many, as a multiple of one
    of a single picture; sizes that are not in it are not used. `before`: the part of `around` that
    comes before the loop."""

    step: Mapping[Hashable, float]
    around: Mapping[Hashable, float]
    batch: Mapping[int, float] = {1: 1.0}
    before: Mapping[Hashable, float] = {}

    def alone(self, arrival: SimulatedRequest) -> float:
        """A request drawn alone."""
        return arrival.steps * self.step[arrival.size] + self.around[arrival.size]


class SimulatedOutcome(NamedTuple):
    """What became of a request; `ended` is None where it was not let in."""

    arrival: SimulatedRequest
    ended: float | None

    @property
    def seconds(self) -> float:
        """From its arrival to its picture."""
        return math.inf if self.ended is None else self.ended - self.arrival.at

    @property
    def met(self) -> bool:
        """Whether its deadline was."""
        return self.ended is not None and self.ended <= self.arrival.deadline


class Rules(NamedTuple):
    """How the workers draw."""

    scheduling: Scheduling
    policy: PolicyName
    workers: int = 1
    admission: bool = False  # refuse what would make somebody late


@dataclass(eq=False)
class _SimulatedWorker:
    """`tasks` are as they will be when the turn that is taken ends, at `free`."""

    tasks: dict[str, Task] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)  # left, of each task
    taking: tuple[str, ...] = ()  # whose turn it is
    free: float = 0.0


def bursty(rate: float, rng: random.Random, burst: int = 4) -> Iterator[float]:
    """The same rate, with `burst` of them at a time."""
    for moment in poisson(rate / burst, rng):
        for _ in range(burst):
            yield moment


def simulate(
    arrivals: Sequence[SimulatedRequest], costs: Costs, rules: Rules
) -> list[SimulatedOutcome]:
    """What becomes of each, in order of arrival. Who comes during a turn has a say at its end, and
    is let in as things will be then."""
    longest = max(map(costs.alone, arrivals), default=0.0)
    run = _SimulatedRun(costs, rules, [_SimulatedWorker() for _ in range(rules.workers)], longest)
    coming = deque(enumerate(arrivals))
    while coming or run.events:
        if coming and (not run.events or coming[0][1].at <= run.events[0][0]):
            run.come(*coming.popleft())
        else:
            run.turn_ends()
    return [SimulatedOutcome(arrival, run.ends.get(arrival.id)) for arrival in arrivals]


@dataclass
class _SimulatedRun:
    costs: Costs
    rules: Rules
    workers: list[_SimulatedWorker]
    longest: float  # seconds of the longest request
    events: list[tuple[float, int]] = field(default_factory=list)  # a worker's turn ends
    ends: dict[str, float] = field(default_factory=dict)

    def come(self, number: int, arrival: SimulatedRequest) -> None:
        machine = min(self.workers, key=lambda machine: _work(machine, arrival.at))
        now, alone = max(arrival.at, machine.free), self.costs.alone(arrival)
        task = Task(
            id=arrival.id,
            number=number,
            arrived=arrival.at,
            seconds=alone,
            deadline=arrival.deadline,
            tag=arrival.tag,
            shape=arrival.size,
            whole=alone,
            longest=self.longest,
        )
        tasks = list(machine.tasks.values())
        if self.rules.admission and not fits(tasks, task, self.rules.policy, now):
            return
        machine.tasks[task.id], machine.steps[task.id] = task, arrival.steps
        if not machine.taking:
            self._begin(arrival.at, machine)

    def turn_ends(self) -> None:
        now, index = heapq.heappop(self.events)
        machine = self.workers[index]
        for name in machine.taking:
            if name not in machine.tasks:
                self.ends[name] = now
        machine.taking = ()
        self._begin(now, machine)

    def _begin(self, now: float, machine: _SimulatedWorker) -> None:
        sizes = tuple(self.costs.batch) if self.rules.scheduling == "step" else (1,)
        batch = next_batch(list(machine.tasks.values()), self.rules.policy, sizes)
        if not batch:
            return
        machine.taking = tuple(task.id for task in batch)
        machine.free = now + self._turn(machine, batch)
        heapq.heappush(self.events, (machine.free, self.workers.index(machine)))

    def _turn(self, machine: _SimulatedWorker, batch: Sequence[Task]) -> float:
        """Seconds of a turn, and what is left after it of each that takes it."""
        step, seconds = self.costs.step[batch[0].shape], 0.0
        if self.rules.scheduling == "step":
            seconds = step * self.costs.batch[len(batch)] - step * len(batch)
        for task in batch:
            left = self._left_after(machine, task)
            seconds += task.seconds - left
            if left:
                machine.tasks[task.id] = task._replace(seconds=left)
            else:
                del machine.tasks[task.id], machine.steps[task.id]
        return seconds

    def _left_after(self, machine: _SimulatedWorker, task: Task) -> float:
        """Seconds that a request takes after its next turn; 0 where that is its last."""
        machine.steps[task.id] -= 1
        steps, size = machine.steps[task.id], task.shape
        if self.rules.scheduling == "call" or not steps:
            return 0.0
        after = self.costs.around[size] - self.costs.before.get(size, 0.0)
        return steps * self.costs.step[size] + after


def _work(machine: _SimulatedWorker, now: float) -> float:
    """Seconds until it has nothing to do."""
    return math.fsum(task.seconds for task in machine.tasks.values()) + max(0.0, machine.free - now)
