"""The queue: what is let in, in order of arrival and with deadlines; which pictures are drawn
together; and how long a newcomer should stay away."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from halftime.records.serve import Certificate
from halftime.verbs.serve.admission import Promises, Turn, Turns, late
from halftime.verbs.serve.messages import Job, OffList, QueueFull, Refused

_WEIGHT = 0.3  # of the newest call in the moving average


_UNKNOWN_SECONDS = 1.0  # of a picture that was never drawn, for turns

# ---- what the certificate allows: nothing is ever compiled in front of a client


def fitted(job: Job, certificate: Certificate, off_list: OffList) -> Job:
    """The job as it will be drawn: where it may be snapped, at the nearest size and steps that are
    warm. `off_list` is for a job that says nothing of it.

    Raises Refused for what the certificate does not list, or what this pipeline cannot do.
    """
    _check_picture(job, certificate)
    if (job.off_list or off_list) == "refuse":
        _check_listed(job, certificate)
    _check_video(job, certificate)
    size = nearest_size((job.width, job.height), certificate.sizes)
    steps = nearest_steps(job.steps, certificate.steps)
    if job.strength is not None and int(steps * job.strength) == 0:
        # diffusers draws int(steps * strength) of the steps, and fails where that is none
        raise Refused(
            f"strength is {job.strength:g}: of {steps} steps that leaves none to draw. It must be "
            f"{1 / steps:.3g} or more; more steps allow less."
        )
    guidance = job.guidance if "guided" in certificate.guidance else None
    width, height = size
    frames = None
    if job.frames is not None:
        frames = nearest_steps(job.frames, certificate.frames)
    return msgspec.structs.replace(
        job, width=width, height=height, steps=steps, guidance=guidance, frames=frames
    )


def _check_listed(job: Job, certificate: Certificate) -> None:
    if (job.width, job.height) not in certificate.sizes:
        sizes = ", ".join(f"{width}x{height}" for width, height in certificate.sizes)
        raise Refused(
            f"size {job.width}x{job.height} is not offered here; sizes are: {sizes}. {_SNAPPED}",
            "size",
        )
    if job.frames is not None and certificate.frames and job.frames not in certificate.frames:
        frames = ", ".join(map(str, certificate.frames))
        raise Refused(
            f"{job.frames} frames are not offered here; {frames} are. {_SNAPPED}", "seconds"
        )
    if job.steps not in certificate.steps:
        steps = ", ".join(map(str, certificate.steps))
        raise Refused(f"{job.steps} steps are not offered here; {steps} are. {_SNAPPED}", "steps")


_SNAPPED = 'Send "off_list": "snap" for the nearest, or start the server with --off-list snap.'


def _check_video(job: Job, certificate: Certificate) -> None:
    if job.frames is None and certificate.frames:
        raise Refused(f"{certificate.pipeline} makes videos: ask /v1/videos.")
    if job.frames is not None and not certificate.frames:
        raise Refused(f"{certificate.pipeline} makes pictures: ask /v1/images/generations.")
    if job.image is None and certificate.needs_picture:
        raise Refused(
            f"{certificate.pipeline} starts from a picture: send one as input_reference.",
            "input_reference",
        )


def _check_picture(job: Job, certificate: Certificate) -> None:
    if job.image is not None and not certificate.img2img:
        raise Refused(
            f"{certificate.pipeline} does not start from a picture here; leave the picture out."
        )
    if job.mask is not None and not certificate.inpaint:
        raise Refused(f"{certificate.pipeline} takes no mask here; leave it out.", "mask")
    if job.lora is not None and job.lora not in certificate.loras:
        raise Refused(no_such_lora(job.lora, certificate.loras), "lora")
    if job.strength is not None and not (job.image is not None and 0 < job.strength <= 1):
        raise Refused(
            f"strength is {job.strength}; it must be more than 0 and at most 1, and goes with "
            "a picture."
        )


def no_such_lora(name: str, names: Sequence[str]) -> str:
    """What there is in its place."""
    there = f"there are: {', '.join(names)}" if names else "there is none; see --loras"
    return f"There is no LoRA {name!r} here; {there}."


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
    shares with nobody; nor does one with references, which a pipeline takes for the whole call.
    """
    if alone or job.profile or job.references:
        return job.id
    has = (job.negative_prompt is None, job.image is None, job.mask is None)
    adapter = (job.lora, job.lora_scale)
    shape = (job.width, job.height, job.frames, job.steps)
    return (*shape, job.guidance, job.strength, *has, *adapter)


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
    """A job in the queue. `since` and the job's deadline are on the queue's clock; `tag` and
    `number`, its place in the order of arrival, say when its turn is."""

    job: Job
    since: float
    deaths: int = 0  # workers that died while they drew it
    tag: float = 0.0
    number: int = 0
    steps_left: int | None = None  # None: not begun, or drawn in one call

    @property
    def deadline(self) -> float:
        return math.inf if self.job.deadline is None else self.job.deadline

    @property
    def turn(self) -> tuple[bool, float, int]:
        """Sorts the queue: what a worker died over first, then by tag and arrival."""
        return (self.deaths == 0, self.tag, self.number)


@dataclass
class ServiceTime:
    """Seconds that a call takes, by steps and pixels, as measured: in the warm-up, then by every
    call."""

    # (width, height) -> seconds a picture, or frame, and step
    rates: dict[tuple[int, int], float] = field(default_factory=dict)
    # the same as in the last warm-up, or better
    best: dict[tuple[int, int], float] = field(default_factory=dict)

    def learn_from(self, certificate: Certificate) -> None:
        """The second pass of the warm-up, longest calls last, so that they count most."""
        for entry in sorted(certificate.entries, key=lambda entry: entry.steps):
            rate = entry.second_seconds / entry.batch / (entry.steps * (entry.frames or 1))
            self.rates[entry.width, entry.height] = self.best[entry.width, entry.height] = rate

    def learn(self, job: Job, batch: int, seconds: float) -> None:
        """One call of the pipeline."""
        size, rate = (job.width, job.height), seconds / batch / _work(job)
        before = self.rates.get(size, rate)
        self.rates[size] = before + _WEIGHT * (rate - before)
        self.best[size] = min(rate, self.best.get(size, rate))

    def of(self, job: Job) -> float | None:
        """Seconds for this picture, in a batch as recent ones were; None where no such size was
        ever drawn."""
        rate = self.rates.get((job.width, job.height))
        return None if rate is None else rate * _work(job)

    def at_best(self, job: Job) -> float:
        """Seconds for this picture at the best rate that was ever measured; 0 where none was."""
        return self.best.get((job.width, job.height), 0.0) * _work(job)

    def total(self, jobs: Iterable[Job]) -> float:
        """Seconds for all of them; what is unknown counts nothing."""
        return sum(self.of(job) or 0.0 for job in jobs)


def _work(job: Job) -> int:
    return job.steps * (job.frames or 1)


@dataclass
class Queue:
    """At most `limit` pictures, drawn in turns between clients. `clock` is monotonic."""

    limit: int
    clock: Callable[[], float]
    times: ServiceTime = field(default_factory=ServiceTime)
    items: list[Waiting] = field(default_factory=list)
    turns: Turns = field(default_factory=Turns)
    workers: int = 1  # when all are ready
    promises: Promises = field(init=False)
    _arrivals: int = 0

    def __post_init__(self) -> None:
        self.promises = Promises(random.random, self.limit)

    def __len__(self) -> int:
        return len(self.items)

    def add(self, job: Job, running: Sequence[Job] = (), workers: int = 1) -> None:
        """Let a job in, as `add_all` does."""
        self.add_all([job], running, workers)

    def add_all(self, jobs: Sequence[Job], running: Sequence[Job] = (), workers: int = 1) -> None:
        """Let the jobs of one request in, all or none.

        Raises Refused where they could not be drawn in time by an idle server either, and QueueFull
        where there is no room now, or where a deadline would pass: of one of them, or, since they
        may come before what is here already, of another.
        """
        self._check_possible(jobs)
        now, client = self.clock(), jobs[0].client
        costs = [self.times.of(job) or 0.0 for job in jobs]
        shares = [
            (cost or _UNKNOWN_SECONDS) / job.weight for cost, job in zip(costs, jobs, strict=True)
        ]
        tags = self.turns.tags(client, shares)
        items = [
            Waiting(job, now, tag=tag, number=self._arrivals + index)
            for index, (job, tag) in enumerate(zip(jobs, tags, strict=True))
        ]
        begin = now + self.times.total(running) / workers
        why = self._why_not(items, begin, workers)
        if why:
            ahead = self.times.total([*running, *(item.job for item in self.items)])
            raise QueueFull(why, self.promises.refuse(client, costs, ahead, workers, now))
        self.promises.take(client)
        self.turns.add(client, tags[-1])
        self._arrivals += len(items)
        self.items += items

    def _check_possible(self, jobs: Sequence[Job]) -> None:
        """Raises Refused. One picture is always tried: what was measured may be of a bad moment."""
        at_best = [self.times.at_best(job) for job in jobs]
        seconds = sum(at_best) / self.workers
        left = min(_seconds_left(job, self.clock()) for job in jobs)
        if len(jobs) == 1 or (len(jobs) <= self.limit and seconds <= left):
            return
        fewer = self.limit
        if seconds > left:
            fewer = min(fewer, int(left * self.workers / max(at_best)))
        raise Refused(
            f"{len(jobs)} pictures in one request can never be drawn here: the queue holds "
            f"{self.limit}, and they would take {seconds:.1f} s at best; the deadline is in "
            f"{left:.1f} s. Ask for {max(1, fewer)} at most.",
            "n",
        )

    def _why_not(self, items: Sequence[Waiting], begin: float, workers: int) -> str:
        """Why these cannot be let in now; empty where they can."""
        ahead, now = len(self.items), self.clock()
        if ahead + len(items) > self.limit:
            return f"the queue holds {ahead} pictures of at most {self.limit}: come back later."
        if not ahead:
            return ""  # trying costs nobody anything
        line = [self._slice(item) for item in [*self.items, *items]]
        newly_late = late(line, begin, workers) - late(line[:ahead], begin, workers)
        if newly_late:
            seconds = begin - now + sum(part.seconds for part in line) / workers
            return (
                f"{ahead} pictures wait: all would be done in {seconds:.1f} s, and a deadline "
                "would pass before that."
            )
        return self._why_later(items, begin, workers)

    def _why_later(self, items: Sequence[Waiting], begin: float, workers: int) -> str:
        """Whether room is to be left for clients that were refused before."""
        pictures, seconds = self.promises.before(items[0].job.client, self.clock())
        if len(self.items) < 2 * workers or not pictures:
            return ""  # nobody has to come back to an idle server
        line = [self._slice(item) for item in [*self.items, *items]]
        end = begin + (seconds + sum(part.seconds for part in line)) / workers
        too_many = len(line) + pictures > self.limit
        if too_many or end > min(item.deadline for item in items):
            return f"{pictures} pictures of others, refused before, come first: come back later."
        return ""

    def _slice(self, item: Waiting) -> Turn:
        return Turn(item.turn, self.times.of(item.job) or 0.0, item.deadline)

    def put_back(self, items: Sequence[Waiting]) -> None:
        """Jobs whose worker died, whose turn is now; they were let in already."""
        self.items[:0] = items

    def remove(self, job_id: str) -> bool:
        """Take a job out; whether it was there."""
        before = len(self.items)
        self.items = [item for item in self.items if item.job.id != job_id]
        return len(self.items) < before

    def expired(self) -> list[Waiting]:
        """Take out what is late, and what would be were it begun now: the latter only where
        somebody else waits, since otherwise trying costs nothing."""
        now, expired = self.clock(), list[Waiting]()
        for item in sorted(self.items, key=lambda item: item.turn):
            alone = len(self.items) == len(expired) + 1
            seconds = 0.0 if alone else self.times.of(item.job) or 0.0
            if now + seconds > item.deadline:
                expired.append(item)
        self.items = [item for item in self.items if item not in expired]
        return expired

    def take(self, sizes: Sequence[int], window: float) -> tuple[list[Waiting], float]:
        """The next batch, and 0; or none, and the seconds to wait for company."""
        line = sorted(self.items, key=lambda item: item.turn)
        kinds = [kind_of(item.job, alone=item.deaths > 0) for item in line]
        chosen = [line[index] for index in batch_of(kinds, sizes)]
        if not chosen:
            return [], 0.0
        first = chosen[0]
        patience = first.since + window - self.clock()
        may_have_company = first.deaths == 0 and not first.job.profile
        if patience > 0 and may_have_company and len(chosen) < max(sizes):
            return [], patience
        batch = self._in_time(chosen, sizes)
        self.turns.serve(max(item.tag for item in batch))
        self.items = [item for item in self.items if item not in batch]
        return batch, 0.0

    def _in_time(self, batch: list[Waiting], sizes: Sequence[int]) -> list[Waiting]:
        """As many of the batch as can be drawn together without one of them being late for it: each
        picture takes as long as all of them."""
        now, seconds = self.clock(), self.times.of(batch[0].job) or 0.0
        for size in sorted((size for size in sizes if size <= len(batch)), reverse=True):
            if now + size * seconds <= min(item.deadline for item in batch[:size]):
                return batch[:size]
        return batch[:1]


def _seconds_left(job: Job, now: float) -> float:
    return math.inf if job.deadline is None else job.deadline - now
