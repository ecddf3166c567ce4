"""The engine: a queue, a worker process, and exactly one answer to every job, whatever happens to
the worker."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field

import msgspec

from halftime.records.serve import Certificate, EngineStatus, State
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
)
from halftime.verbs.serve.process import COMMAND, WorkerProcess
from halftime.verbs.serve.queue import Queue, Waiting, fitted
from halftime.verbs.serve.wire import (
    BatchDone,
    Cancel,
    CannotServe,
    DrawTask,
    FromWorker,
    MemoryDropped,
    ModelLoaded,
    Ready,
    Recompiled,
    Warming,
)

logger = logging.getLogger("halftime.verbs.serve.engine")

_ALARMS_KEPT = 20
_STUCK_SECONDS = 30.0  # a worker that draws on for so long when nobody waits any more hangs
_TICK = 0.25  # how often deadlines in the queue are looked at


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

    workers_restarted: int = 0
    memory_drops: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    rejected: int = 0
    previews_sent: int = 0
    previews_dropped: int = 0


@dataclass
class Engine:
    """One worker and its queue, for one event loop. `command` starts the worker."""

    settings: EngineSettings
    command: tuple[str, ...] = COMMAND
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Queue(self.settings.queue_limit, time.monotonic, time.time)
        self._state: State = "stopped"
        self._why = "not started"
        self._certificate: Certificate | None = None
        self._alarms: list[str] = []
        self._tally = _Tally()
        self._resident: int | None = None
        self._open: dict[str, JobEvents] = {}
        self._running: dict[str, Waiting] = {}
        # when the last of a batch was answered without the worker being done
        self._busy_since = math.inf
        self._worker: WorkerProcess | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = False
        self._deaths_in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None

    # ---- for the HTTP side

    @property
    def status(self) -> EngineStatus:
        """The engine as it is now."""
        certificate = self._certificate
        return EngineStatus(
            state=self._state,
            why=self._why,
            certificate=certificate,
            queue_depth=len(self.queue),
            running=len(self._running),
            recompiles=len(certificate.recompiles_after_ready) if certificate else 0,
            alarms=tuple(self._alarms),
            resident_bytes=self._resident,
            seconds_per_picture=self._typical_seconds(),
            worker_pid=self._worker.pid if self._worker else None,
            **vars(self._tally),
        )

    async def start(self) -> None:
        """Spawn the worker and return; `status` says when it is ready."""
        self._set("starting", "the worker process starts")
        self._keep(self._supervise())
        self._keep(self._tick())

    def submit(self, job: Job) -> JobEvents:
        """Accept a job. Raises NotReady, Refused or QueueFull, and then nothing was begun."""
        if self._state != "ready" or self._certificate is None:
            raise NotReady(f"the server is {self._state}: {self._why}.")
        if job.id in self._open:
            raise ValueError(f"job id {job.id!r} is in use")
        if job.deadline is None and self.settings.deadline_seconds is not None:
            deadline = self.queue.wall() + self.settings.deadline_seconds
            job = msgspec.structs.replace(job, deadline=deadline)
        job = fitted(job, self._certificate, self.settings.off_list)
        try:
            self.queue.add(job, [item.job for item in self._running.values()], self._together())
        except QueueFull:
            self._tally.rejected += 1
            raise
        events = self._open[job.id] = JobEvents(job.id, self._cancel)
        self._dispatch()
        return events

    async def drain(self, timeout: float) -> None:
        """Accept nothing more, finish what was accepted, end the worker. What `timeout` cuts off
        fails as 'draining'."""
        if self._state not in ("stopped", "failed"):
            self._set("draining", "finishing what was accepted")
        end = time.monotonic() + timeout
        while self._unanswered() and time.monotonic() < end and self._worker is not None:
            await asyncio.sleep(0.01)
        for job_id in self._unanswered():
            message = "the server shut down before this picture was done."
            self._fail(job_id, "draining", message, retryable=True)
        self._set("stopped", "drained")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._worker is not None:
            await self._worker.end()
            self._worker = None

    # ---- jobs

    def _cancel(self, job_id: str) -> None:
        if self._open.pop(job_id, None) is None:
            return
        self._tally.cancelled += 1
        if not self.queue.remove(job_id) and self._worker is not None:
            self._worker.send(Cancel(id=job_id))
            self._release(job_id)

    def _fail(self, job_id: str, kind: FailureKind, message: str, *, retryable: bool) -> None:
        self.queue.remove(job_id)
        self._answer(JobFailed(id=job_id, kind=kind, message=message, retryable=retryable))

    def _answer(self, event: Final | JobFailed) -> None:
        """The last word on a job; a second one, or one on a job that was cancelled, is dropped."""
        self._release(event.id)
        events = self._open.pop(event.id, None)
        if events is None:
            return
        if isinstance(event, Final):
            self._tally.completed += 1
        else:
            self._tally.failed += 1
        events.put(event)

    def _unanswered(self) -> list[str]:
        return [item.job.id for item in self.queue.items] + list(self._running)

    def _release(self, job_id: str) -> None:
        self._running.pop(job_id, None)
        if self._busy and not self._running:
            self._busy_since = min(self._busy_since, time.monotonic())

    def _dispatch(self) -> None:
        """Give the worker its next batch, if it has nothing to do."""
        takes_batches = self._state in ("ready", "draining") and not self._busy
        if not takes_batches or self._worker is None or self._certificate is None:
            return
        self._fail_late()
        window = self.settings.batch_window_seconds
        batch, patience = self.queue.take(self._certificate.batch_sizes, window)
        if patience:  # look again when the first has waited long enough for company
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(patience, self._dispatch)
        if not batch:
            return
        self._busy, self._busy_since = True, math.inf
        self._running = {item.job.id: item for item in batch}
        jobs, now = tuple(item.job for item in batch), time.monotonic()
        self._worker.send(DrawTask(jobs=jobs, waited=tuple(now - item.since for item in batch)))

    def _fail_late(self) -> None:
        for item in self.queue.expired(self._together()):
            message = "the deadline would pass before this picture could be drawn."
            self._fail(item.job.id, "deadline", message, retryable=True)

    def _together(self) -> int:
        """The largest batch that a picture may have to wait for."""
        return max(self._certificate.batch_sizes) if self._certificate else 1

    # ---- the worker

    async def _supervise(self) -> None:
        """One worker after another, until told to stop."""
        while True:
            self._worker = await WorkerProcess.start(self.settings, self.command)
            broken = await self._listen(self._worker)
            code = await self._worker.wait()
            self._busy = False
            if broken is not None and self._certificate is None:  # what never was ready will not be
                self._give_up(broken)
                return
            self._after_death(code, broken)
            if self._deaths_in_a_row > self.settings.restart_limit:
                last = broken or f"exit code {code}"
                self._give_up(
                    f"{self._deaths_in_a_row} workers died in a row, the last with: {last}"
                )
                return

    async def _listen(self, worker: WorkerProcess) -> str | None:
        """Handle what a worker says until it ends; the reason where it cannot serve at all."""
        async for message in worker.messages():
            if isinstance(message, CannotServe):
                return message.message
            self._handle(message)
        return None

    def _after_death(self, code: int, broken: str | None) -> None:
        self._tally.workers_restarted += 1
        self._deaths_in_a_row += 1
        if broken:
            how = f"before it was ready: {broken}"
        else:
            how = f"with exit code {code} while it drew {len(self._running)} pictures"
        why = f"a worker ended {how}; another one starts"
        self._alarm(why)
        self._resident = None
        self._set("starting", why)
        retried: list[Waiting] = []
        for item in list(self._running.values()):
            item.deaths += 1
            if item.deaths <= self.settings.max_retries:
                retried.append(item)
                continue
            message = (
                f"{item.deaths} workers ended while they drew this picture; it is not tried again."
            )
            self._fail(item.job.id, "crashed", message, retryable=False)
        self._tally.retried += len(retried)
        self._running = {}
        self.queue.put_back(retried)

    def _give_up(self, why: str) -> None:
        self._alarm(why)
        self._worker = None
        self._set("failed", why)
        for job_id in self._unanswered():
            self._fail(job_id, "crashed", f"the server cannot draw: {why}", retryable=False)

    def _handle(self, message: FromWorker) -> None:
        match message:
            case Started() | Preview():
                self._pass_on(message)
            case Final() | JobFailed():
                self._answered(message)
            case BatchDone():
                self._batch_done(message)
            case ModelLoaded():
                self._set("warming", "the pipeline is loaded")
            case Warming():
                self._set("warming", f"{message.step} ({message.finished} of {message.total})")
            case Ready():
                self._ready(message)
            case Recompiled():
                self._recompiled(message)
            case MemoryDropped():
                self._memory_dropped(message)

    def _answered(self, message: Final | JobFailed) -> None:
        item = self._running.get(message.id)
        if isinstance(message, Final):
            self._deaths_in_a_row = 0
            if item is not None:
                self.queue.times.learn(item.job, message.batch_size, message.compute_seconds)
        self._answer(message)

    def _pass_on(self, event: Started | Preview) -> None:
        events = self._open.get(event.id)
        if events is None:
            return
        self._tally.previews_sent += isinstance(event, Preview)
        # numbered here: a worker that tries a second time begins anew
        events.put(events.previews.numbered(event))

    def _ready(self, message: Ready) -> None:
        before = self._certificate.recompiles_after_ready if self._certificate else ()
        self._certificate = msgspec.structs.replace(
            message.certificate, recompiles_after_ready=before
        )
        self._resident = message.resident_bytes
        self.queue.times.learn_from(message.certificate)
        self._busy = False
        self._set("ready", f"{len(message.certificate.entries)} kinds of call are warm")
        self._dispatch()

    def _batch_done(self, message: BatchDone) -> None:
        """The worker is free, unless it pauses to warm up again."""
        self._resident = message.resident_bytes
        self._tally.previews_dropped += message.previews_dropped
        for job_id in list(self._running):  # the worker owes nobody an answer any more
            self._fail(job_id, "internal", "the worker gave no picture.", retryable=True)
        self._busy = message.pauses
        self._dispatch()

    def _recompiled(self, message: Recompiled) -> None:
        assert self._certificate is not None
        graphs = (*self._certificate.recompiles_after_ready, *message.graphs)
        self._certificate = msgspec.structs.replace(
            self._certificate, recompiles_after_ready=graphs
        )
        for graph in message.graphs:
            self._alarm(f"compiled after ready, for picture {graph.request}: {graph.guard}")

    def _memory_dropped(self, message: MemoryDropped) -> None:
        self._tally.memory_drops += 1
        warms_again = message.warms_again
        remedy = "graphs were dropped; warming again" if warms_again else "caches were dropped"
        self._alarm(f"{message.message}; {remedy}")

    async def _tick(self) -> None:
        """Deadlines in the queue and in the worker, and a worker that hangs."""
        while True:
            await asyncio.sleep(_TICK)
            self._fail_late()
            now = self.queue.wall()
            for item in [item for item in self._running.values() if now > item.deadline + _TICK]:
                message = "the deadline passed while it was drawn."
                self._fail(item.job.id, "deadline", message, retryable=True)
            stuck = self._busy and time.monotonic() - self._busy_since > _STUCK_SECONDS
            if stuck and self._worker is not None:
                self._alarm(f"the worker did not come back for {_STUCK_SECONDS:.0f} s; it is ended")
                self._busy_since = math.inf
                self._worker.kill()

    # ---- small things

    def _typical_seconds(self) -> float | None:
        """What a picture of the first size at the most steps takes."""
        if self._certificate is None:
            return None
        width, height = self._certificate.sizes[0]
        steps = max(self._certificate.steps)
        job = Job(id="", prompt="", width=width, height=height, steps=steps, seed=0)
        return self.queue.times.of(job)

    def _set(self, state: State, why: str) -> None:
        if self._state == "draining" and state in ("starting", "warming", "ready"):
            return  # whatever its worker does, a draining engine takes nothing more
        if state != self._state:
            logger.info("%s: %s", state, why)
        self._state, self._why = state, why

    def _alarm(self, text: str) -> None:
        logger.warning(text)
        self._alarms = [*self._alarms, text][-_ALARMS_KEPT:]

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
