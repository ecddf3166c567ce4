"""The queue: what is let in, in order of arrival and with deadlines; which pictures are drawn
together; and how long a newcomer should stay away."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from halftime.records.serve import Certificate
from halftime.verbs.serve.messages import Job, QueueFull, Refused

_WEIGHT = 0.3  # of the newest call in the moving average
_LONGEST_WAIT = 600.0


# ---- what the certificate allows: nothing is ever compiled in front of a client


def fitted(job: Job, certificate: Certificate, off_list: Literal["snap", "refuse"]) -> Job:
    """The job as it will be drawn: size and steps snapped to the nearest that are warm.

    Raises Refused for what the certificate does not list, or what this pipeline cannot do.
    """
    _check_picture(job, certificate)
    size = nearest_size((job.width, job.height), certificate.sizes)
    steps = nearest_steps(job.steps, certificate.steps)
    if off_list == "refuse" and (size, steps) != ((job.width, job.height), job.steps):
        sizes = ", ".join(f"{width}x{height}" for width, height in certificate.sizes)
        raise Refused(
            f"{job.width}x{job.height} at {job.steps} steps is not warm here. Sizes are: {sizes}; "
            f"steps are: {', '.join(map(str, certificate.steps))}."
        )
    if job.strength is not None and int(steps * job.strength) == 0:
        # diffusers draws int(steps * strength) of the steps, and fails where that is none
        raise Refused(
            f"strength is {job.strength:g}: of {steps} steps that leaves none to draw. It must be "
            f"{1 / steps:.3g} or more; more steps allow less."
        )
    guidance = job.guidance if "guided" in certificate.guidance else None
    width, height = size
    return msgspec.structs.replace(job, width=width, height=height, steps=steps, guidance=guidance)


def _check_picture(job: Job, certificate: Certificate) -> None:
    if job.image is not None and not certificate.img2img:
        raise Refused(
            f"{certificate.pipeline} does not start from a picture here; leave the picture out."
        )
    if job.strength is not None and not (job.image is not None and 0 < job.strength <= 1):
        raise Refused(
            f"strength is {job.strength}; it must be more than 0 and at most 1, and goes with "
            "a picture."
        )


def nearest_size(size: tuple[int, int], sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The listed size whose shape and then whose area is nearest, both as ratios; the first of
    equals."""

    def distance(candidate: tuple[int, int]) -> tuple[float, float]:
        shape = abs(math.log(size[0] * candidate[1] / (size[1] * candidate[0])))
        area = abs(math.log(size[0] * size[1] / (candidate[0] * candidate[1])))
        return shape, area

    return min(sizes, key=distance)


def nearest_steps(steps: int, listed_steps: tuple[int, ...]) -> int:
    """The nearest listed number of steps; the larger of two that are equally near."""
    return min(listed_steps, key=lambda count: (abs(count - steps), -count))


# ---- which pictures are drawn together: pure functions of the queue


def kind_of(job: Job, alone: bool = False) -> Hashable:
    """Equal for jobs that may share a call of the pipeline.

    What shapes a tensor or changes the loop must agree; prompts, negative prompts, seeds and
    pictures may differ. A job that is profiled, or one that may have killed a worker (`alone`),
    shares with nobody.
    """
    if alone or job.profile:
        return job.id
    has = (job.negative_prompt is None, job.image is None)
    return (job.width, job.height, job.steps, job.guidance, job.strength, *has)


def batch_of(kinds: Sequence[Hashable], sizes: Sequence[int]) -> list[int]:
    """Indices of the pictures to draw next, in order: the first, and the next of its kind.

    As many as the largest of `sizes` (the batch sizes that are warm) that can be filled: an odd one
    waits rather than be drawn at a size that was never run. `sizes` holds 1.
    """
    if not kinds:
        return []
    alike = [index for index, kind in enumerate(kinds) if kind == kinds[0]]
    size = max(size for size in sizes if size <= len(alike))
    return alike[:size]


# ---- the queue


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
        seconds = self.times.total([*ahead, *running]) + together * (self.times.of(job) or 0.0)
        left = math.inf if job.deadline is None else job.deadline - self.wall()
        if ahead and seconds > left:
            raise QueueFull(
                f"{len(ahead)} pictures wait: this one would be done in {seconds:.1f} s, and its "
                f"deadline is in {left:.1f} s.",
                max(1.0, min(seconds - left, _LONGEST_WAIT)),
            )
        self.items.append(Waiting(job, self.clock()))

    def put_back(self, items: Sequence[Waiting]) -> None:
        """Jobs whose worker died, at the front; they were let in already."""
        self.items[:0] = items

    def remove(self, job_id: str) -> bool:
        """Take a job out; whether it was there."""
        before = len(self.items)
        self.items = [item for item in self.items if item.job.id != job_id]
        return len(self.items) < before

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
        if patience > 0 and may_have_company and len(chosen) < max(sizes):
            return [], patience
        batch = [self.items[index] for index in chosen]
        self.items = [item for index, item in enumerate(self.items) if index not in set(chosen)]
        return batch, 0.0

    def retry_after(self) -> float:
        """Seconds until half of what waits now will have been drawn."""
        seconds = self.times.total(item.job for item in self.items) / 2
        return min(max(1.0, seconds), _LONGEST_WAIT)
