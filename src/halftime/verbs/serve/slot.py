"""A place for a worker: one after another, each watched, tested when it fails, and replaced.

What a worker owes is written down here; what it says about jobs goes to the engine, the `Office`.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from PIL import Image

from halftime.records.serve import Certificate, State, WorkerStatus
from halftime.verbs.serve.liveness import Liveness, Phase
from halftime.verbs.serve.messages import (
    EngineSettings,
    Final,
    Job,
    JobFailed,
    Preview,
    Started,
    Stepped,
)
from halftime.verbs.serve.queue import ServiceTime, Waiting
from halftime.verbs.serve.wire import (
    BatchDone,
    Beat,
    Cancel,
    CannotServe,
    DrawTask,
    FromWorker,
    MemoryDropped,
    ModelLoaded,
    Ready,
    Recompiled,
    Shadowed,
    StepsTaken,
    ToWorker,
    Warming,
)

TEST_PICTURE = "test-picture"  # the id of the engine's own job
_TEST_PROMPT = "red red red"
_SOONEST = 1.0  # seconds until a worker that takes longer than it did is ready
_LONGEST_PAUSE = 30.0  # before another worker starts where the ones before died at once


class WorkerLink(Protocol):
    """One worker, as a slot talks to it; `process.WorkerProcess` is one."""

    @property
    def pid(self) -> int: ...

    def send(self, message: ToWorker) -> None: ...

    def messages(self) -> AsyncIterator[FromWorker]: ...

    async def wait(self) -> int: ...

    async def end(self) -> None: ...

    def kill(self) -> None: ...


Spawn = Callable[[EngineSettings, int], Awaitable[WorkerLink]]  # of the slot with this number


class Office(Protocol):
    """What a slot tells its engine."""

    def pass_on(self, event: Started | Preview | Stepped) -> None:
        """A job's event, but for its last."""

    def answer(self, event: Final | JobFailed) -> None:
        """The last word on a job."""

    def put_back(self, items: list[Waiting]) -> None:
        """A worker died while it drew these."""

    def changed(self) -> None:
        """A worker is free, or is in another state."""

    def alarm(self, text: str) -> None:
        """What an operator must look at."""

    def shadowed(self, message: Shadowed) -> None:
        """Pictures were drawn twice."""


@dataclass
class SlotTally:
    """Totals of one slot."""

    restarts: int = 0  # for whatever reason
    replaced_failing: int = 0  # since it failed its test
    replaced_hanging: int = 0
    memory_drops: int = 0
    black: int = 0
    previews_dropped: int = 0


@dataclass
class Slot:
    """One worker after another in the same place, until told to stop."""

    number: int
    settings: EngineSettings
    spawn: Spawn
    office: Office
    times: ServiceTime
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    state: State = "stopped"
    why: str = "not started"
    certificate: Certificate | None = None
    resident: int | None = None
    running: dict[str, Waiting] = field(default_factory=dict)
    # what the worker has and has not begun: it is in the queue still, scheduled at the step
    sent: dict[str, Waiting] = field(default_factory=dict)
    phase: Phase = "loading"
    worker: WorkerLink | None = None
    liveness: Liveness = field(default_factory=Liveness)
    tally: SlotTally = field(default_factory=SlotTally)
    _deaths: int = 0  # in a row
    _failures: int = 0  # batches in a row
    _call_seconds: float = 0.0  # of the batch that is drawn, as measured before
    _good: int = 0  # pictures of this batch that came out
    _bad: int = 0  # that failed, or came out black
    _sample: Job | None = None  # of the batch that is drawn
    _condemned: str = ""  # why the worker was ended by us
    _under: EngineSettings | None = None  # what the worker was started with
    _renewed: bool = False  # it was ended to be started with others
    _started: float = 0.0  # when the worker was, or when it began to warm up again
    _last_end: str = ""  # how the last worker ended

    # ---- for the engine

    @property
    def status(self) -> WorkerStatus:
        """The slot as it is now."""
        return WorkerStatus(
            number=self.number,
            state=self.state,
            why=self.why,
            pid=self.worker.pid if self.worker else None,
            resident_bytes=self.resident,
            running=len(self.running),
            restarts=self.tally.restarts,
        )

    @property
    def ready_in(self) -> float | None:
        """Seconds until it should be ready, by what its last start took; None where it never was or
        will not be."""
        cold = self.certificate.cold_start if self.certificate else None
        if self.state == "ready":
            return 0.0
        if cold is None or self.state not in ("starting", "warming"):
            return None
        return max(_SOONEST, cold.ready_seconds - (self.clock() - self._started))

    @property
    def recompiles(self) -> int:
        """Graphs that were compiled after ready."""
        return len(self.certificate.recompiles_after_ready) if self.certificate else 0

    @property
    def free(self) -> bool:
        """Whether it takes a batch."""
        return self.state == "ready" and self.phase == "idle" and self.worker is not None

    @property
    def outdated(self) -> bool:
        """Whether its worker was started with settings that are no longer the slot's."""
        return self.worker is not None and not self._condemned and self._under != self.settings

    @property
    def at_rest(self) -> bool:
        """Whether its worker could end now, and nobody would wait for it."""
        return self.phase not in ("drawing", "abandoned") and not self.running and not self.sent

    def renew(self, why: str) -> None:
        """Replace the worker, which must be at rest, by one with the settings as they are now: no
        death of a worker, and no alarm."""
        self._renewed = True
        self._condemn(why)

    @property
    def takes_steps(self) -> bool:
        """Whether it takes requests as they come, and schedules them at the step."""
        by_step = self.certificate is not None and self.certificate.scheduling == "step"
        return by_step and self.state == "ready" and self.worker is not None

    def send(self, items: list[Waiting]) -> None:
        """Give the worker requests to schedule at the step. It must take them so. Where it has
        nothing else to do, the first one's turn has come."""
        assert self.worker is not None
        if not self.running and not self.sent:
            self.liveness.step()
            self._turn_comes(items[0])
        self.sent |= {item.job.id: item for item in items if item.job.id not in self.running}
        self.phase, now = self._at_work(), self.clock()
        self.worker.send(
            DrawTask(
                jobs=tuple(item.job for item in items),
                waited=tuple(now - item.since for item in items),
                tags=tuple(item.tag for item in items),
            )
        )

    def _turn_comes(self, item: Waiting) -> None:
        self.running[item.job.id] = item
        self._sample, self._call_seconds = item.job, self.times.of(item.job) or 0.0

    def _at_work(self) -> Phase:
        return "drawing" if self.running or self.sent else "idle"

    def draw(self, batch: list[Waiting]) -> None:
        """Give the worker its next batch. It must be free."""
        jobs, now = tuple(item.job for item in batch), self.clock()
        self.running = {item.job.id: item for item in batch}
        self._begin(jobs, tuple(now - item.since for item in batch))

    def _begin(self, jobs: tuple[Job, ...], waited: tuple[float, ...]) -> None:
        assert self.worker is not None
        self.phase, self._sample = "drawing", jobs[0]
        self._good = self._bad = 0
        self._call_seconds = len(jobs) * (self.times.of(jobs[0]) or 0.0)
        self.liveness.step()
        self.worker.send(DrawTask(jobs=jobs, waited=waited))

    def cancel(self, job_id: str) -> None:
        """Nobody waits for this picture any more."""
        if self.worker is not None:
            self.worker.send(Cancel(id=job_id))

    def release(self, job_id: str) -> Waiting | None:
        """This job is answered, or nobody waits for it; a worker that draws for nobody must come
        back soon."""
        item = self.running.pop(job_id, None) or self.sent.pop(job_id, None)
        at_work = self.running or self.sent
        if item is not None and not at_work and self.phase == "drawing":
            self.phase = "abandoned"
            self.liveness.step()
        return item

    def look(self, seconds: float) -> None:
        """End a worker that shows no life; `seconds` have passed since the last look."""
        if self.worker is None or self._condemned:
            return
        self.liveness.look(seconds)
        trouble = self.liveness.verdict(self.phase, self._call_seconds)
        if trouble is not None:
            self.tally.replaced_hanging += 1
            self._condemn(f"{trouble} while {self.phase}; it was ended")

    async def end(self) -> None:
        """End the worker."""
        self.set("stopped", "drained")
        if self.worker is not None:
            await self.worker.end()
            self.worker = None

    def set(self, state: State, why: str) -> None:
        """Enter a state."""
        self.state, self.why = state, why
        self.office.changed()

    # ---- one worker after another

    async def supervise(self) -> None:
        """Start a worker, listen to it, and start the next when it ends; until the slot has
        failed."""
        while self.state != "failed":
            self.set("starting", self.why if self._deaths else "the worker process starts")
            await self.sleep(self._pause())
            broken = await self._one_worker()
            if broken is not None and self.certificate is None:
                self._give_up(broken)  # what never was ready will not be
            elif self._deaths > self.settings.restart_limit:
                self._give_up(f"{self._deaths} workers died in a row, the last {self._last_end}")

    def _pause(self) -> float:
        return 0.0 if self._deaths < 2 else min(0.5 * 2.0 ** (self._deaths - 2), _LONGEST_PAUSE)

    async def _one_worker(self) -> str | None:
        """From a worker's start to its end; the reason where it cannot serve at all."""
        self.phase, self.liveness, self._condemned = "loading", Liveness(), ""
        self._started, self._under, self._renewed = self.clock(), self.settings, False
        try:
            self.worker = await self.spawn(self.settings, self.number)
        except OSError as error:
            self._after_death(f"before it had begun: {error}")
            return None
        broken = await self._listen(self.worker)
        code = await self.worker.wait()
        self.worker = None
        if self._condemned:
            how = f"since {self._condemned}"
        elif broken:
            how = f"before it was ready: {broken}"
        else:
            how = f"with exit code {code} while it drew {len(self.running)} pictures"
        self._after_death(how)
        return broken

    async def _listen(self, worker: WorkerLink) -> str | None:
        """Handle what a worker says until it ends; the reason where it cannot serve at all."""
        try:
            async for message in worker.messages():
                if isinstance(message, CannotServe):
                    return message.message
                self._handle(message)
        # what comes over the pipe is not our protocol: a library has written to it
        except (msgspec.MsgspecError, ValueError) as error:
            self._condemn(f"it said what nobody understands ({type(error).__name__})")
        return None

    def _condemn(self, why: str) -> None:
        """End this worker; another one takes its place."""
        self._condemned = why
        self.set("starting", f"the worker is replaced: {why}")
        if self.worker is not None:
            self.worker.kill()

    def _after_death(self, how: str) -> None:
        self.tally.restarts += 1
        self._deaths += not self._renewed
        self._failures, self._last_end = 0, how
        self.resident = None
        items = list(self.running.values())
        self.running, self.sent = {}, {}
        self.set("starting", f"a worker ended {how}; another one starts")
        if not self._renewed:
            self.office.alarm(self.why)
        self.office.put_back(items)

    def _give_up(self, why: str) -> None:
        self.office.alarm(why)
        self.set("failed", why)

    # ---- what a worker says

    def _handle(self, message: FromWorker) -> None:
        if self._condemned:
            return  # it does not count any more: what it owed is put back when it has ended
        self.liveness.heard(message if isinstance(message, Beat) else None)
        match message:
            case Started() | Preview() | Stepped():
                self._event(message)
            case Final() | JobFailed():
                self._answered(message)
            case BatchDone():
                self._batch_done(message)
            case StepsTaken():
                self._stepped(message)
            case ModelLoaded():
                self.phase = "warming"
                self.set("warming", "the pipeline is loaded")
            case Warming():
                self.phase = "warming"
                self.set("warming", f"{message.step} ({message.finished} of {message.total})")
            case Ready():
                self._ready(message)
            case Recompiled():
                self._recompiled(message)
            case MemoryDropped():
                self._memory_dropped(message)
            case Shadowed():
                self.office.shadowed(message)

    def _stepped(self, message: StepsTaken) -> None:
        for job_id, left in message.left.items():
            if job_id in self.running:
                self.running[job_id].steps_left = left

    def _event(self, event: Started | Preview | Stepped) -> None:
        if event.id in self.sent:  # and a Started: its first turn has come
            self._turn_comes(self.sent.pop(event.id))
        if event.id != TEST_PICTURE:
            self.office.pass_on(event)

    def _answered(self, message: Final | JobFailed) -> None:
        item = self.release(message.id)
        if item is not None:
            self._sample = item.job
        if isinstance(message, JobFailed):
            self._bad += message.kind == "internal"
        elif is_black(message):
            self._bad += 1
            self.tally.black += 1
        else:
            self._good += 1
            self._deaths = 0
        if item is not None and isinstance(message, Final):
            own = message.own_seconds
            cost = (1, own) if own is not None else (message.batch_size, message.compute_seconds)
            self.times.learn(item.job, *cost)
        if message.id != TEST_PICTURE:
            self.office.answer(message)

    def _batch_done(self, message: BatchDone) -> None:
        """The worker is free, unless it warms up again, or has failed so often that it is put to
        the test."""
        self.resident = message.resident_bytes
        self.tally.previews_dropped += message.previews_dropped
        # the worker owes nobody of the batch an answer any more
        batch = message.jobs if self.takes_steps else tuple(self.running)
        for job_id in set(batch) & {*self.running, *self.sent}:
            text = "the worker gave no picture."
            self._answered(JobFailed(id=job_id, kind="internal", message=text, retryable=True))
        sample = self._sample.id if self._sample is not None else ""
        tested = TEST_PICTURE in (message.jobs or (sample,))
        if self._bad and not self._good and not tested:
            self._failures += 1
        elif self._good and not tested:
            self._failures = 0
        self.phase = self._at_work()
        if message.pauses:
            self.phase, self._started = "warming", self.clock()
            self.set("warming", "its memory was given back; it warms up again")
        elif tested:
            self._after_test()
        elif self._tests_now() and self._sample is not None:
            self._put_to_the_test(self._sample)
        else:
            self._good = self._bad = 0
        self.office.changed()

    def _tests_now(self) -> bool:
        return self._failures >= self.settings.failure_limit and self.state == "ready"

    def _put_to_the_test(self, sample: Job) -> None:
        """Draw a picture of our own of the same kind: are the requests at fault, or the worker?"""
        self.set("warming", f"{self._failures} batches in a row failed: a test picture is drawn")
        self._begin((picture_for_the_test(sample),), (0.0,))

    def _after_test(self) -> None:
        failed = f"{self._failures} batches in a row failed or were black"
        if self._good:
            self.office.alarm(f"{failed}; a test picture came out well: look at the requests")
            self._ready_again()
        else:
            self.tally.replaced_failing += 1
            self._condemn(f"{failed}, and so did a test picture")

    def _ready(self, message: Ready) -> None:
        before = self.certificate.recompiles_after_ready if self.certificate else ()
        self.certificate = msgspec.structs.replace(
            message.certificate, recompiles_after_ready=before
        )
        self.resident = message.resident_bytes
        self.times.learn_from(message.certificate)
        self._ready_again()

    def _ready_again(self) -> None:
        assert self.certificate is not None
        self.phase, self._failures = self._at_work(), 0
        self.set("ready", f"{len(self.certificate.entries)} kinds of call are warm")

    def _recompiled(self, message: Recompiled) -> None:
        assert self.certificate is not None
        graphs = (*self.certificate.recompiles_after_ready, *message.graphs)
        self.certificate = msgspec.structs.replace(self.certificate, recompiles_after_ready=graphs)
        for graph in message.graphs:
            self.office.alarm(f"compiled after ready, for picture {graph.request}: {graph.guard}")

    def _memory_dropped(self, message: MemoryDropped) -> None:
        self.tally.memory_drops += 1
        remedy = "graphs were dropped; warming again"
        remedy = remedy if message.warms_again else "caches were dropped"
        self.office.alarm(f"{message.message}; {remedy}")


def is_black(final: Final) -> bool:
    """Whether every value of the picture is zero: what a VAE that overflows gives."""
    return bool(final.pixels) and final.pixels.count(0) == len(final.pixels)


def picture_for_the_test(sample: Job) -> Job:
    """The engine's own job, of the same kind as `sample` and with nothing of its client's."""
    return Job(
        id=TEST_PICTURE,
        prompt=_TEST_PROMPT,
        negative_prompt=None if sample.negative_prompt is None else "",
        width=sample.width,
        height=sample.height,
        steps=sample.steps,
        guidance=sample.guidance,
        seed=0,
        image=None if sample.image is None else _grey_png(),
        frames=sample.frames,
        strength=sample.strength,
    )


def _grey_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
