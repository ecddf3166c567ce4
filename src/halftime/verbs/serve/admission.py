"""The queue: bounded, in order of arrival, with deadlines; and how long a newcomer should stay
away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from halftime.records.serve import Certificate
from halftime.verbs.serve.batching import batch_of, could_grow, kind_of
from halftime.verbs.serve.messages import Job, QueueFull

_WEIGHT = 0.3  # of the newest call in the moving average
_LONGEST_WAIT = 600.0


@dataclass
class Waiting:
    """A job in the queue. `since` is on the queue's clock, `deadline` on the wall clock."""

    job: Job
    since: float
    deaths: int = 0  # workers that died while they drew it

    @property
    def deadline(self) -> float:
        return math.inf if self.job.deadline is None else self.job.deadline


@dataclass
class ServiceTime:
    """Seconds that a call takes, by steps and pixels, as measured: in the warm-up, then by every
    call."""

    # (width, height) -> seconds a picture and step
    rates: dict[tuple[int, int], float] = field(default_factory=dict)

    def learn_from(self, certificate: Certificate) -> None:
        """The second pass of the warm-up, longest calls last, so that they count most."""
        for entry in sorted(certificate.entries, key=lambda entry: entry.steps):
            self.rates[entry.width, entry.height] = entry.second_seconds / entry.batch / entry.steps

    def learn(self, job: Job, batch: int, seconds: float) -> None:
        """One call of the pipeline."""
        size, rate = (job.width, job.height), seconds / batch / job.steps
        before = self.rates.get(size, rate)
        self.rates[size] = before + _WEIGHT * (rate - before)

    def of(self, job: Job) -> float | None:
        """Seconds for this picture, in a batch as recent ones were; None where no such size was
        ever drawn."""
        rate = self.rates.get((job.width, job.height))
        return None if rate is None else rate * job.steps

    def total(self, jobs: Iterable[Job]) -> float:
        """Seconds for all of them; what is unknown counts nothing."""
        return sum(self.of(job) or 0.0 for job in jobs)


@dataclass
class Queue:
    """At most `limit` pictures. `clock` is monotonic, `wall` is time.time()."""

    limit: int
    clock: Callable[[], float]
    wall: Callable[[], float]
    times: ServiceTime = field(default_factory=ServiceTime)
    items: list[Waiting] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def add(self, job: Job, running: Sequence[Job] = (), together: int = 1) -> None:
        """Let a job in. Raises QueueFull where there is no room, or where its deadline would pass
        before its turn.

        `together` is the batch it may be drawn in: each picture of a batch takes as long as all of
        it.
        """
        ahead = [item.job for item in self.items]
        if len(ahead) >= self.limit:
            raise QueueFull(
                f"the queue holds {len(ahead)} pictures, its limit: come back later.",
                self.retry_after(),
            )
        begins = self.times.total([*ahead, *running])
        needs = together * (self.times.of(job) or 0.0)
        left = math.inf if job.deadline is None else job.deadline - self.wall()
        if ahead and begins + needs > left:
            raise QueueFull(
                f"{len(ahead)} pictures wait: this one would be done in {begins + needs:.1f} "
                "s, and its deadline is "
                f"in {left:.1f} s.",
                max(1.0, min(begins + needs - left, _LONGEST_WAIT)),
            )
        self.items.append(Waiting(job, self.clock()))

    def put_back(self, items: Sequence[Waiting]) -> None:
        """Jobs whose worker died, at the front; they were let in already."""
        self.items[:0] = items

    def remove(self, job_id: str) -> bool:
        """Take a job out, wherever it stands."""
        kept = [item for item in self.items if item.job.id != job_id]
        found = len(kept) < len(self.items)
        self.items = kept
        return found

    def expired(self, together: int = 1) -> list[Waiting]:
        """Take out what cannot be done in time any more, were it begun now in a batch of
        `together`."""
        now = self.wall()
        late = [
            item
            for item in self.items
            if now + together * (self.times.of(item.job) or 0.0) > item.deadline
        ]
        self.items = [item for item in self.items if item not in late]
        return late

    def take(self, sizes: Sequence[int], window: float) -> tuple[list[Waiting], float]:
        """The next batch, and 0; or none, and the seconds to wait for company."""
        kinds = [kind_of(item.job, alone=item.deaths > 0) for item in self.items]
        chosen = batch_of(kinds, sizes)
        if not chosen:
            return [], 0.0
        patience = self.items[0].since + window - self.clock()
        may_have_company = self.items[0].deaths == 0 and not self.items[0].job.profile
        if patience > 0 and may_have_company and could_grow(kinds, sizes):
            return [], patience
        batch = [self.items[index] for index in chosen]
        self.items = [item for index, item in enumerate(self.items) if index not in set(chosen)]
        return batch, 0.0

    def retry_after(self) -> float:
        """Seconds until half of what waits now will have been drawn."""
        seconds = self.times.total(item.job for item in self.items) / 2
        return min(max(1.0, seconds), _LONGEST_WAIT)
