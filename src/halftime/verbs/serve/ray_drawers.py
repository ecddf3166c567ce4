"""An engine, as the HTTP side wants one, made of all drawers of a Ray cluster: each picture goes to
one of them, and to another where that one dies, is not ready or is full."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from halftime.base.extras import optional
from halftime.records.serve import EngineStatus
from halftime.verbs.serve.many_engines import ManyEngines
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    Final,
    Job,
    JobFailed,
    NotAccepted,
    NotReady,
    PreviewCounter,
    QueueFull,
    Started,
)
from halftime.verbs.serve.queue import fitted

if TYPE_CHECKING:
    from halftime.records.serve import Certificate

PURPOSE = "halftime serve --ray"
LOOK = 0.5  # seconds between looks at the drawers' states
_DEATHS = 3  # of drawers, over one picture
_PATIENCE = 0.25  # before all are asked again for a picture that one had accepted
_LATE = 1.0  # seconds that a drawer has to say itself that the deadline has passed


class NotTaken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A drawer's only word on a job that it has no room for, or cannot draw now; another one may.
    `again` is when it could, in seconds."""

    id: str
    replica: str
    kind: Literal["queue_full", "not_ready"]
    message: str
    again: float | None = None


Word = Event | NotTaken
_words = msgspec.msgpack.Decoder(Word)
_reports = msgspec.msgpack.Decoder(dict[str, EngineStatus])


def moved(job: Job, seconds: float) -> Job:
    """The job with its deadline moved: between machines it travels as the seconds that are left,
    since each has a clock of its own."""
    if job.deadline is None:
        return job
    return msgspec.structs.replace(job, deadline=job.deadline + seconds)


async def _no_trouble() -> str | None:
    return None


@dataclass
class Drawers:
    """All drawers. `drawer` and `board` are Ray's handles of the deployments; `trouble` says why
    there will be no drawer, where Ray has given up."""

    drawer: Any
    board: Any
    settings: EngineSettings
    engines: ManyEngines = field(default_factory=ManyEngines)
    trouble: Callable[[], Awaitable[str | None]] = _no_trouble
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _draining: bool = False
    _failed: str = ""
    _open: dict[str, _DrawerEvents] = field(default_factory=dict)
    _watch: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """All drawers as one engine."""
        status = self.engines.status
        if self._failed:
            return msgspec.structs.replace(status, state="failed", why=self._failed)
        if self._draining:
            why = "finishing what was accepted"
            return msgspec.structs.replace(status, state="draining", why=why)
        return status

    async def start(self) -> None:
        """Begin to look after the drawers."""
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            # whatever Ray raises while it places replicas: ask again
            with contextlib.suppress(Exception):
                self.engines.update(_reports.decode(await self.board.read.remote()))
            with contextlib.suppress(Exception):
                self._failed = await self.trouble() or ""
            await self.sleep(LOOK)

    def submit_all(self, jobs: Sequence[Job]) -> list[AsyncIterator[Event]]:
        """Hand the jobs of one request to some drawers, all or none. Raises as `submit`."""
        streams: list[AsyncIterator[Event]] = []
        try:
            for job in jobs:
                streams.append(self.submit(job))
        except NotAccepted:
            for job in jobs[: len(streams)]:
                self.done(job.id)  # nothing of it was begun: a drawer is asked when events are
            raise
        return streams

    def submit(self, job: Job) -> AsyncIterator[Event]:
        """Hand a job to some drawer. Raises NotReady, Refused or QueueFull."""
        job = fitted(job, self._certificate(), self.settings.off_list)
        most = max(1, len(self.engines.ready)) * self.settings.queue_limit
        if len(self._open) >= most:
            raise QueueFull(
                f"{most} pictures wait, the limit: come back later.", self._retry_after(most)
            )
        stream = self._open[job.id] = _DrawerEvents(self, job)
        return stream

    def _certificate(self) -> Certificate:
        status = self.status
        if status.state != "ready" or status.certificate is None:
            raise NotReady(f"the server is {status.state}: {status.why}.", status.ready_in)
        return status.certificate

    def _retry_after(self, waiting: int) -> float:
        seconds = self.status.seconds_per_picture or 1.0
        return max(1.0, waiting * seconds / max(1, len(self.engines.ready)))

    def done(self, job_id: str) -> None:
        """A job has its answer, or nobody waits for one."""
        self._open.pop(job_id, None)

    async def drain(self, timeout: float) -> None:
        """Wait for what was accepted; the drawers end with the application."""
        end = time.monotonic() + timeout
        self._draining = True
        while self._open and time.monotonic() < end:
            await self.sleep(LOOK)
        for events in list(self._open.values()):
            events.cut()
        if self._watch is not None:
            self._watch.cancel()


class _DrawerEvents:
    """The events of one job, from whichever drawer lives long enough."""

    def __init__(self, drawers: Drawers, job: Job) -> None:
        self._drawers, self._job = drawers, job
        self._deaths, self._over = 0, False  # deaths of drawers, or of workers, over this picture
        self._begun = False  # by the drawer that has it now
        self._accepted = False  # by some drawer, which then died
        self._refusals: list[NotTaken] = []  # since all were asked last
        self._previews = PreviewCounter()
        self._remote: Any = None
        self._waiting: asyncio.Task[Event] | None = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        # numbered here: another drawer would begin anew
        event = self._previews.numbered(await self._in_time())
        if isinstance(event, Final | JobFailed):
            self._end()
        return event

    async def _in_time(self) -> Event:
        """The next event, or that it comes too late: a drawer that hangs says nothing."""
        self._waiting = asyncio.ensure_future(self._next())
        try:
            async with asyncio.timeout(self._seconds_left()):
                return await self._waiting
        except TimeoutError:
            self._cancel_remote()
            return self._failure("deadline", "the deadline passed while a drawer had it.")
        except asyncio.CancelledError:
            if not self._over:
                raise  # somebody else's
            text = "the server shut down before this picture was done."
            return self._failure("draining", text)

    def _seconds_left(self) -> float | None:
        deadline = self._job.deadline
        return None if deadline is None else max(0.0, deadline + _LATE - time.monotonic())

    async def _next(self) -> Event:
        ray_error = optional("ray.exceptions", "ray", PURPOSE).RayError
        serve_error = optional("ray.serve.exceptions", "ray", PURPOSE).RayServeException
        while True:
            try:
                word = await self._word()
            except (ray_error, serve_error, StopAsyncIteration) as error:
                self._remote = None
                self._deaths += 1
                if self._deaths >= _DEATHS:
                    name = type(error).__name__
                    text = f"{_DEATHS} drawers ended while they drew this picture ({name})."
                    return self._failure("crashed", text)
                continue
            if not isinstance(word, NotTaken):
                self._begun |= isinstance(word, Started)
                self._accepted |= self._begun
                return word
            # the worker that had begun it is dead: perhaps of it
            self._deaths += self._begun
            if self._deaths >= _DEATHS:
                text = f"{_DEATHS} workers ended while they drew this picture."
                return self._failure("crashed", text)
            answer = await self._refused(word)
            if answer is not None:
                return answer

    async def _word(self) -> Word:
        """What a drawer says next."""
        if self._remote is None:
            avoid = self._drawers.engines.unready | {word.replica for word in self._refusals}
            data = msgspec.msgpack.encode(moved(self._job, -time.monotonic()))
            method = self._drawers.drawer.draw.options(stream=True)
            self._remote = method.remote(data, avoid=sorted(avoid))
            self._begun = False
        word: Word = _words.decode(await self._remote.__anext__())
        return word

    async def _refused(self, word: NotTaken) -> JobFailed | None:
        """Ask another one; where all have refused that is the answer, unless one had begun."""
        self._remote = None
        before = {refusal.replica for refusal in self._refusals}
        self._refusals.append(word)
        unasked = {*self._drawers.engines.ready} - before - {word.replica}
        if word.replica not in before and unasked:
            return None
        refusals, self._refusals = self._refusals, []
        if self._accepted:
            await self._drawers.sleep(_PATIENCE)  # the deadline is the end of that
            return None
        waits = [refusal.again for refusal in refusals if refusal.again is not None]
        full = next((refusal for refusal in refusals if refusal.kind == "queue_full"), refusals[0])
        return msgspec.structs.replace(
            self._failure(full.kind, full.message), retry_after=min(waits, default=None)
        )

    def _failure(
        self,
        kind: Literal["crashed", "deadline", "draining", "queue_full", "not_ready"],
        message: str,
    ) -> JobFailed:
        return JobFailed(id=self._job.id, kind=kind, message=message, retryable=True)

    def cut(self) -> None:
        """The drain has run out of time: whoever waits is told."""
        self._over = True
        self._cancel_remote()
        if self._waiting is not None:
            self._waiting.cancel()

    async def aclose(self) -> None:
        """Cancel; a drawer stops within a step."""
        if not self._over:
            self._cancel_remote()
        self._end()

    def _cancel_remote(self) -> None:
        if self._remote is not None:
            self._remote.cancel()

    def _end(self) -> None:
        self._over = True
        self._drawers.done(self._job.id)
