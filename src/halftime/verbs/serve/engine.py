"""The engine: a queue, workers, and exactly one answer to every job, whatever happens to the
workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

import msgspec

from halftime.records.serve import Certificate, EngineStatus, State
from halftime.verbs.serve.certificate_watch import CertificateWatch
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    FailureKind,
    Final,
    Job,
    JobFailed,
    NotReady,
    Preview,
    PreviewCounter,
    QueueFull,
    Started,
    Stepped,
)
from halftime.verbs.serve.process import COMMAND, WorkerProcess
from halftime.verbs.serve.queue import Queue, Waiting, fitted
from halftime.verbs.serve.slot import Slot, Spawn, WorkerLink
from halftime.verbs.serve.step_queue import StepQueue, queue_for, spread
from halftime.verbs.serve.wire import Shadowed

logger = logging.getLogger("halftime.verbs.serve.engine")

_ALARMS_KEPT = 20
_TICK = 0.25  # how often deadlines and workers are looked at
# In this order the best of the slots is the engine's state.
_BEST: tuple[State, ...] = ("ready", "warming", "starting", "stopped", "failed")


class JobEvents:
    """The events of one job, one after another. Closing it before its end cancels the job."""

    def __init__(self, job_id: str, cancel: Callable[[str], None]) -> None:
        self._job_id, self._cancel = job_id, cancel
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._over = False
        self.previews = PreviewCounter()

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        event = await self._events.get()
        self._over = isinstance(event, Final | JobFailed)
        return event

    async def aclose(self) -> None:
        """Nobody waits any more; the worker stops within a step. Does nothing after the last
        event."""
        if not self._over:
            self._over = True
            self._cancel(self._job_id)


@dataclass
class _Tally:
    """Totals since the engine was made; names are those of EngineStatus."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    rejected: int = 0
    previews_sent: int = 0
    alarm_count: int = 0


@dataclass
class Engine:
    """Workers and their queue, for one event loop. `command` starts a worker, unless `spawn` does;
    `clock` is monotonic."""

    settings: EngineSettings
    command: tuple[str, ...] = COMMAND
    spawn: Spawn | None = None
    clock: Callable[[], float] = time.monotonic
    queue: Queue = field(init=False)
    slots: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.queue = queue_for(self.settings, self.clock, self._begun)
        self.slots = [
            Slot(
                number,
                self.settings,
                self.spawn or self._process,
                self,
                self.queue.times,
                self.clock,
            )
            for number in range(self.settings.workers)
        ]
        self._draining = False
        self._alarms: list[str] = []
        self._tally = _Tally()
        self._watch = CertificateWatch()
        self._open: dict[str, JobEvents] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def _begun(self) -> list[Waiting]:
        return [item for slot in self.slots for item in slot.running.values()]

    async def _process(self, settings: EngineSettings, number: int) -> WorkerLink:
        return await WorkerProcess.start(settings, self.command, number)

    # ---- for the HTTP side

    @property
    def status(self) -> EngineStatus:
        """The engine as it is now."""
        certificate, best = self._certificate, self._best
        resident = [slot.resident for slot in self.slots if slot.resident is not None]
        return EngineStatus(
            state=self._state,
            why="finishing what was accepted" if self._state == "draining" else best.why,
            certificate=certificate,
            queue_depth=len(self.queue),
            running=sum(len(slot.running) for slot in self.slots),
            workers=tuple(slot.status for slot in self.slots),
            workers_restarted=sum(slot.tally.restarts for slot in self.slots),
            workers_failing=sum(slot.tally.replaced_failing for slot in self.slots),
            workers_hanging=sum(slot.tally.replaced_hanging for slot in self.slots),
            memory_drops=sum(slot.tally.memory_drops for slot in self.slots),
            previews_dropped=sum(slot.tally.previews_dropped for slot in self.slots),
            black=sum(slot.tally.black for slot in self.slots),
            shadowed=self._watch.drawn,
            shadow_different=self._watch.different,
            recompiles=sum(slot.recompiles for slot in self.slots),
            alarms=tuple(self._alarms),
            resident_bytes=sum(resident) if resident else None,
            seconds_per_picture=self._typical_seconds(),
            ready_in=self._ready_in(),
            worker_pid=next((slot.worker.pid for slot in self.slots if slot.worker), None),
            **vars(self._tally),
        )

    @property
    def _best(self) -> Slot:
        """The slot that is nearest to drawing."""
        return min(self.slots, key=lambda slot: _BEST.index(slot.state))

    @property
    def _state(self) -> State:
        best = self._best.state
        return "draining" if self._draining and best not in ("stopped", "failed") else best

    @property
    def _certificate(self) -> Certificate | None:
        """That of a worker which is ready, or was."""
        slots = sorted(self.slots, key=lambda slot: _BEST.index(slot.state))
        return next((slot.certificate for slot in slots if slot.certificate), None)

    async def start(self) -> None:
        """Spawn the workers and return; `status` says when one is ready."""
        for slot in self.slots:
            slot.set("starting", "the worker process starts")
            self._keep(slot.supervise())
        self._keep(self._tick())

    def submit(self, job: Job) -> JobEvents:
        """Accept a job. Raises NotReady, Refused or QueueFull, and then nothing was begun."""
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Sequence[Job]) -> list[JobEvents]:
        """Accept the jobs of one request, all or none. Raises NotReady, Refused or QueueFull."""
        certificate = self._certificate
        if self._state != "ready" or certificate is None:
            status = self.status
            raise NotReady(f"the server is {status.state}: {status.why}.", status.ready_in)
        in_use = next((job.id for job in jobs if job.id in self._open), None)
        if in_use is not None:
            raise ValueError(f"job id {in_use!r} is in use")
        jobs = [fitted(self._dated(job), certificate, self.settings.off_list) for job in jobs]
        running = [item.job for item in self._begun()]
        try:
            self.queue.add_all(jobs, running, workers=self._at_work())
        except QueueFull:
            self._tally.rejected += len(jobs)
            raise
        events = [JobEvents(job.id, self._cancel) for job in jobs]
        self._open |= {job.id: stream for job, stream in zip(jobs, events, strict=True)}
        self._dispatch()
        return events

    def _dated(self, job: Job) -> Job:
        """The job with a deadline, where the settings have one."""
        if job.deadline is not None or self.settings.deadline_seconds is None:
            return job
        deadline = self.clock() + self.settings.deadline_seconds
        return msgspec.structs.replace(job, deadline=deadline)

    def _at_work(self) -> int:
        return max(1, sum(slot.state == "ready" for slot in self.slots))

    async def drain(self, timeout: float) -> None:
        """Accept nothing more, finish what was accepted, end the workers. What `timeout` cuts off
        fails as 'draining'."""
        self._draining = True
        end = time.monotonic() + timeout
        while self._unanswered() and time.monotonic() < end and self._state == "draining":
            await asyncio.sleep(0.01)
        for job_id in self._unanswered():
            message = "the server shut down before this picture was done."
            self._fail(job_id, "draining", message, retryable=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(slot.end() for slot in self.slots))

    # ---- jobs

    def _cancel(self, job_id: str) -> None:
        if self._open.pop(job_id, None) is None:
            return
        self._tally.cancelled += 1
        self.queue.remove(job_id)
        for slot in self.slots:
            if slot.release(job_id) is not None:
                slot.cancel(job_id)

    def _fail(self, job_id: str, kind: FailureKind, message: str, *, retryable: bool) -> None:
        self.queue.remove(job_id)
        for slot in self.slots:
            if job_id in slot.sent:
                slot.cancel(job_id)
            slot.release(job_id)
        self.answer(JobFailed(id=job_id, kind=kind, message=message, retryable=retryable))

    def answer(self, event: Final | JobFailed) -> None:
        """The last word on a job; a second one, or one on a job that was cancelled, is dropped."""
        self.queue.remove(event.id)  # where a worker had it before its turn
        events = self._open.pop(event.id, None)
        if events is None:
            return
        if isinstance(event, Final):
            self._tally.completed += 1
        else:
            self._tally.failed += 1
        events.put(event)

    def pass_on(self, event: Started | Preview | Stepped) -> None:
        """An event of a job, numbered here: a worker that tries a second time begins anew."""
        if isinstance(event, Started):
            self.queue.remove(event.id)  # where a worker had it before its turn
        events = self._open.get(event.id)
        if events is None:
            return
        self._tally.previews_sent += isinstance(event, Preview)
        events.put(events.previews.numbered(event))

    def put_back(self, items: list[Waiting]) -> None:
        """A worker died while it drew these: each is tried again, alone, unless it was before."""
        again: list[Waiting] = []
        for item in items:
            item.deaths += 1
            if item.deaths <= self.settings.max_retries:
                again.append(item)
                continue
            message = (
                f"{item.deaths} workers ended while they drew this picture; it is not tried again."
            )
            self._fail(item.job.id, "crashed", message, retryable=False)
        self._tally.retried += len(again)
        self.queue.put_back(again)
        self.changed()

    def _unanswered(self) -> list[str]:
        running = [job_id for slot in self.slots for job_id in slot.running]
        return [item.job.id for item in self.queue.items] + running

    # ---- workers

    def changed(self) -> None:
        """A worker is free, or in another state: the next batch, or, where none will ever draw,
        the end of all that waits."""
        if all(slot.state == "failed" for slot in self.slots):
            for job_id in self._unanswered():
                message = f"the server cannot draw: {self._best.why}"
                self._fail(job_id, "crashed", message, retryable=False)
        self._renew()
        self._dispatch()

    def _dispatch(self) -> None:
        """Give every worker that has nothing to do its next batch."""
        if isinstance(self.queue, StepQueue):
            spread(self.queue, [slot for slot in self.slots if slot.takes_steps])
        for slot in self.slots:
            if slot.takes_steps:
                continue
            if slot.free and slot.certificate is not None:
                self._dispatch_to(slot, slot.certificate.batch_sizes)

    def _dispatch_to(self, slot: Slot, sizes: Sequence[int]) -> None:
        self._fail_late()
        batch, patience = self.queue.take(sizes, self.settings.batch_window_seconds)
        if patience:  # look again when the first has waited long enough for company
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(patience, self._dispatch)
        if batch:
            slot.draw(batch)

    def _fail_late(self) -> None:
        for item in self.queue.expired():
            message = "the deadline would pass before this picture could be drawn."
            self._fail(item.job.id, "deadline", message, retryable=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.look(_TICK)

    def look(self, seconds: float) -> None:
        """Deadlines in the queue and in the workers, and workers that hang; `seconds` after the
        last look."""
        self._fail_late()
        now = self.clock()
        for slot in self.slots:
            for item in [item for item in slot.running.values() if now > item.deadline + _TICK]:
                message = "the deadline passed while it was drawn."
                slot.cancel(item.job.id)
                self._fail(item.job.id, "deadline", message, retryable=True)
            slot.look(seconds)

    def shadowed(self, message: Shadowed) -> None:
        """Pictures were drawn twice; an alarm ends the approximate fixes where that is wished."""
        was_broken = self._watch.broken
        for text in self._watch.hear(message):
            self.alarm(text)
        if self._watch.broken and not was_broken and self.settings.on_drift == "exact":
            self.settings = msgspec.structs.replace(self.settings, exact=True)
            for slot in self.slots:
                slot.settings = self.settings
            self.changed()

    def _renew(self) -> None:
        """Workers whose settings are no longer the engine's are replaced: one after another, and
        between two batches, so that nobody's picture is lost."""
        busy = ("starting", "warming")
        if any(slot.state in busy and not slot.outdated for slot in self.slots):
            return
        slot = next((slot for slot in self.slots if slot.outdated and slot.at_rest), None)
        if slot is not None:
            logger.warning("worker %d goes on without the recipe's approximate fixes", slot.number)
            slot.renew("it goes on without the recipe's approximate fixes")

    # ---- small things

    def _ready_in(self) -> float | None:
        waits = [slot.ready_in for slot in self.slots if slot.ready_in is not None]
        return min(waits, default=None)

    def _typical_seconds(self) -> float | None:
        """What a picture of the first size at the most steps takes."""
        certificate = self._certificate
        if certificate is None:
            return None
        width, height = certificate.sizes[0]
        steps = max(certificate.steps)
        job = Job(id="", prompt="", width=width, height=height, steps=steps, seed=0)
        return self.queue.times.of(job)

    def alarm(self, text: str) -> None:
        """Something that an operator must look at."""
        logger.warning(text)
        self._tally.alarm_count += 1
        self._alarms = [*self._alarms, text][-_ALARMS_KEPT:]

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task of ours is over. Where a fault of ours ended it nobody looks after the workers any
        more: that is the end, and whoever started the server sees it."""
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        name = type(task.exception()).__name__
        logger.error("the engine failed", exc_info=task.exception())
        self.alarm(f"the engine itself failed ({name}); the log says where")
        for slot in self.slots:
            slot.set("failed", f"the engine itself failed ({name})")
