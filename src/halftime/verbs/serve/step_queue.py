"""The queue where requests are scheduled at the step: who is let in beside whom, by the policy that
the workers draw by.

A request stays in the queue, though a worker has it already, until its first turn has come: at
once where the worker has nothing else to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from halftime.records.serve import PolicyName
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.queue import Queue, Waiting
from halftime.verbs.serve.step_policies import Task, earliest_deadline, late, order


def queue_for(
    settings: EngineSettings, clock: Callable[[], float], running: Callable[[], Sequence[Waiting]]
) -> Queue:
    """The queue of an engine; `running` are the requests that its workers have begun."""
    if settings.scheduling == "call":
        return Queue(settings.queue_limit, clock, workers=settings.workers)
    return StepQueue(
        settings.queue_limit,
        clock,
        workers=settings.workers,
        policy=settings.policy,
        most_steps=max(settings.steps, default=1),
        running=running,
    )


@dataclass
class StepQueue(Queue):
    """Lets in whom the policy can draw in time, beside all that were let in before."""

    policy: PolicyName = "head-start"
    most_steps: int = 1  # of what is offered
    running: Callable[[], Sequence[Waiting]] = tuple

    def _why_not(self, items: Sequence[Waiting], begin: float, workers: int) -> str:
        ahead, now = len(self.items), self.clock()
        if ahead + len(items) > self.limit:
            return f"the queue holds {ahead} pictures of at most {self.limit}: come back later."
        before = [self.task(item) for item in [*self.running(), *self.items]]
        if not before:
            return ""  # trying costs nobody anything
        newcomers = [self.task(item) for item in items]
        newly = late([*before, *newcomers], self.policy, now, workers)
        newly -= late(before, self.policy, now, workers)
        if newly:
            return self._too_late(before, newcomers, now, workers)
        return self._why_later(items, begin, workers)

    def _too_late(
        self, before: Sequence[Task], newcomers: Sequence[Task], now: float, workers: int
    ) -> str:
        """Why, and by when it could be."""
        text = (
            f"{len(before)} pictures are drawn or wait, and a deadline would pass if "
            f"{len(newcomers)} more came."
        )
        if len(newcomers) > 1:
            return text
        end = earliest_deadline(before, newcomers[0], self.policy, now, workers)
        if end is None:
            return f"{text} None could be met before one of these is done."
        return (
            f"{text} It could be done in {end - now:.1f} s, with a deadline no earlier than that."
        )

    def task(self, item: Waiting) -> Task:
        """A request as a policy sees it."""
        seconds = self.times.of(item.job) or 0.0
        left = 1.0 if item.steps_left is None else item.steps_left / item.job.steps
        return Task(
            id=item.job.id,
            number=item.number,
            arrived=item.since,
            seconds=seconds * left,
            deadline=item.deadline,
            tag=item.tag,
            whole=seconds,
            longest=self.most_steps * max(self.times.rates.values(), default=0.0),
        )

    def first(self) -> list[Waiting]:
        """All that wait, by the policy; what a worker died over comes first."""
        by_id = {item.job.id: item for item in self.items}
        line = [
            by_id[task.id] for task in order([self.task(item) for item in self.items], self.policy)
        ]
        return sorted(line, key=lambda item: item.deaths == 0)


class StepTaker(Protocol):
    """A place for a worker that schedules at the step; `slot.Slot` is one."""

    running: dict[str, Waiting]
    sent: dict[str, Waiting]

    def send(self, items: list[Waiting]) -> None: ...


def spread(queue: StepQueue, takers: Sequence[StepTaker]) -> None:
    """Give each that waits and that no worker has to the one with the least to do."""
    if not takers:
        return
    working = {job_id for taker in takers for job_id in taker.sent}
    for item in queue.first():
        if item.job.id in working:
            continue
        possible = [taker for taker in takers if _may_have(taker, item)]
        if not possible:
            return  # what a worker died over comes first, and has a worker for itself
        taker = min(possible, key=lambda taker: _work(queue, taker))
        taker.send([item])
        if item.job.id in taker.running:
            queue.remove(item.job.id)


def _items(taker: StepTaker) -> list[Waiting]:
    return [*taker.running.values(), *taker.sent.values()]


def _may_have(taker: StepTaker, item: Waiting) -> bool:
    items = _items(taker)
    return not items if item.deaths else not any(queued.deaths for queued in items)


def _work(queue: StepQueue, taker: StepTaker) -> tuple[float, int]:
    items = _items(taker)
    return math.fsum(queue.task(item).seconds for item in items), len(items)
