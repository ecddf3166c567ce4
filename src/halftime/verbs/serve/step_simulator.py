"""Workers as a discrete-event simulation, by the very policy functions that they draw by: what a
policy would do under a load that this machine cannot bear, or on machines that are not here.

Fed with measured seconds of a step and of what is around the loop. Requests come in an open loop:
nobody waits for an answer before the next one comes.
"""

from __future__ import annotations

import heapq
import math
import random
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
    of a single picture; sizes that are not in it are not used."""

    step: Mapping[Hashable, float]
    around: Mapping[Hashable, float]
    batch: Mapping[int, float] = {1: 1.0}

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


@dataclass
class _SimulatedWorker:
    tasks: dict[str, Task] = field(default_factory=dict)
    busy: bool = False


def bursty(rate: float, rng: random.Random, burst: int = 4) -> Iterator[float]:
    """The same rate, with `burst` of them at a time."""
    for moment in poisson(rate / burst, rng):
        for _ in range(burst):
            yield moment


def simulate(
    arrivals: Sequence[SimulatedRequest], costs: Costs, rules: Rules
) -> list[SimulatedOutcome]:
    """What becomes of each, in order of arrival."""
    run = _SimulatedRun(costs, rules, [_SimulatedWorker() for _ in range(rules.workers)])
    coming = [(arrival.at, number, arrival) for number, arrival in enumerate(arrivals)]
    while coming or run.events:
        if coming and (not run.events or coming[0][0] <= run.events[0][0]):
            at, number, arrival = coming.pop(0)
            run.come(at, number, arrival)
        else:
            run.turn_ends()
    return [SimulatedOutcome(arrival, run.ends.get(arrival.id)) for arrival in arrivals]


@dataclass
class _SimulatedRun:
    costs: Costs
    rules: Rules
    workers: list[_SimulatedWorker]
    events: list[tuple[float, int, tuple[str, ...]]] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    requests: dict[str, SimulatedRequest] = field(default_factory=dict)

    def come(self, now: float, number: int, arrival: SimulatedRequest) -> None:
        seconds = self.costs.alone(arrival)
        task = Task(arrival.id, number, now, seconds, arrival.deadline, arrival.tag, arrival.size)
        worker = min(
            range(len(self.workers)),
            key=lambda index: sum(task.seconds for task in self.workers[index].tasks.values()),
        )
        tasks = self.workers[worker].tasks
        if self.rules.admission and not fits(list(tasks.values()), task, self.rules.policy, now):
            return
        self.requests[arrival.id] = arrival
        tasks[arrival.id] = task
        if not self.workers[worker].busy:
            self._begin(now, worker)

    def turn_ends(self) -> None:
        now, worker, names = heapq.heappop(self.events)
        tasks = self.workers[worker].tasks
        for name in names:
            left = tasks[name].seconds - self._turn(tasks[name])
            if left > 1e-9:
                tasks[name] = tasks[name]._replace(seconds=left)
            else:
                del tasks[name]
                self.ends[name] = now
        self.workers[worker].busy = False
        self._begin(now, worker)

    def _begin(self, now: float, worker: int) -> None:
        machine = self.workers[worker]
        sizes = tuple(self.costs.batch) if self.rules.scheduling == "step" else (1,)
        batch = next_batch(list(machine.tasks.values()), self.rules.policy, sizes)
        if not batch:
            return
        machine.busy = True
        shared = self.costs.step[batch[0].shape] if len(batch) > 1 else 0.0
        alone = sum(self._turn(task) - shared for task in batch)  # what each is around its loop
        seconds = shared * self.costs.batch[len(batch)] + alone
        heapq.heappush(self.events, (now + seconds, worker, tuple(task.id for task in batch)))

    def _turn(self, task: Task) -> float:
        """Seconds of the request's next turn: a step, the last one with what is around the loop."""
        step = self.costs.step[task.shape]
        unbroken = self.rules.scheduling == "call" or task.seconds < 2 * step
        last = task.seconds <= step + self.costs.around[task.shape] + 1e-9
        return task.seconds if unbroken or last else step
