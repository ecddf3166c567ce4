"""What the HTTP side holds: its settings, the engine behind it, and what lives between requests."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request

from halftime.http.traffic import Traffic
from halftime.verbs.serve.film_shelf import FilmShelf
from halftime.verbs.serve.messages import DEADLINE_SECONDS
from halftime.verbs.serve.metrics import ServerMetrics
from halftime.verbs.serve.models import ModelEngines
from halftime.verbs.serve.quotas import KeySettings, Quotas
from halftime.verbs.serve.shared_pictures import MEMORY, PictureShelf, pictures_in

if TYPE_CHECKING:
    from halftime.records.serve import EngineStatus
    from halftime.verbs.serve.messages import Event, Job

API_KEY = "HALFTIME_API_KEY"  # environment variable; one key, or several with commas between
PROFILE_TOKEN = "HALFTIME_PROFILE_TOKEN"
MIB = 2**20
SERVICE = "halftime.service"  # in the scope: the one for the model that was asked for
MOST_UPLOADS = 2  # pictures of clients that are decoded at once
MOST_SESSIONS = 16  # of the profiler, the newest


class DrawingEngine(Protocol):
    """What the HTTP side asks of an engine; `halftime.verbs.serve.engine.Engine` is one, Ray's
    `Drawers` are another."""

    @property
    def status(self) -> EngineStatus: ...

    async def start(self) -> None: ...

    def submit_all(self, jobs: Sequence[Job]) -> Sequence[AsyncIterator[Event]]: ...

    async def drain(self, timeout: float) -> None: ...


@dataclass(frozen=True)
class HttpSettings:
    """Limits and names. Seconds and bytes."""

    model: str = "emoji-xl"  # under which clients ask for it
    aliases: tuple[str, ...] = ()  # further names of it
    api_keys: tuple[str, ...] = ()  # without names and limits
    keys: Mapping[str, KeySettings] = field(default_factory=dict)  # by name
    hosts: tuple[str, ...] = ()  # that `Host` may name; empty: any
    public_url: str = ""  # under which clients reach the server, where that is another one
    profile_token: str = ""
    most_pictures: int = 10  # of one request; those beyond the engine's queue could never be taken
    # of a request, from its arrival; also what its place in the queue is bounded by
    deadline: float = DEADLINE_SECONDS
    most_body: int = 16 * MIB
    body_seconds: float = 30.0  # for the whole body to arrive
    most_bodies: int = 1024 * MIB  # of all bodies together; large ones are on disk
    send_seconds: float = 30.0  # for a reader to take any one piece of an answer
    keep_alive_seconds: float = 10.0  # between comments in a stream that has nothing to say
    pictures: str = MEMORY  # where pictures by URL are; 'off', a folder or a bucket
    url_seconds: float = 3600.0
    url_bytes: int = 256 * MIB
    drain_seconds: float = 30.0
    video_seconds: float = 3600.0  # from a request's arrival to its video, at most

    @property
    def names(self) -> tuple[str, ...]:
        """All names that clients may ask for."""
        return tuple(dict.fromkeys((self.model, *self.aliases)))

    @property
    def has_keys(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.api_keys or self.keys)


class LiveProfiler:
    """Which of the next pictures are to be profiled, and the sessions of those that were."""

    def __init__(self) -> None:
        self.waiting = 0
        self.sessions: deque[bytes] = deque(maxlen=MOST_SESSIONS)  # JSON

    def start(self, pictures: int) -> None:
        """Profile the next `pictures`; sessions of an earlier start are dropped."""
        self.waiting = pictures
        self.sessions.clear()

    def stop(self) -> list[bytes]:
        """No more; the sessions so far."""
        self.waiting = 0
        return list(self.sessions)

    def take(self) -> bool:
        """Whether the picture that comes now is one of them."""
        if not self.waiting:
            return False
        self.waiting -= 1
        return True

    def give_back(self, jobs: Sequence[Job]) -> None:
        """These will not be drawn: others are to be profiled in their place."""
        self.waiting += sum(job.profile for job in jobs)


@dataclass
class Service:
    """The state of one application."""

    engine: DrawingEngine
    settings: HttpSettings
    metrics: ServerMetrics = field(init=False)
    traffic: Traffic = field(init=False)
    pictures: PictureShelf | None = field(init=False)
    quotas: Quotas = field(init=False)
    films: FilmShelf = field(init=False)
    profiler: LiveProfiler = field(default_factory=LiveProfiler)
    # Each may take some 100 MiB while it is decoded and written anew; on disk until then.
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_UPLOADS))

    def __post_init__(self) -> None:
        self.metrics = ServerMetrics(lambda: self.engine.status)
        self.quotas = Quotas(self.settings.keys, time.monotonic)
        self.films = FilmShelf(self.settings.url_bytes, self.settings.url_seconds)
        self.traffic = Traffic(
            self.metrics,
            drain_seconds=self.settings.drain_seconds,
            send_seconds=self.settings.send_seconds,
        )
        self.pictures = pictures_in(
            self.settings.pictures, self.settings.url_bytes, self.settings.url_seconds
        )

    def for_model(self, name: str | None) -> Service:
        """The service with the engine of the model that a request names; itself where there is one
        model, or none of this name."""
        if not isinstance(self.engine, ModelEngines):
            return self
        model = self.engine.named(name)
        if model is None:
            return self
        own = copy.copy(self)  # everything else is shared
        own.engine = model[1]
        own.settings = replace(self.settings, model=model[0], aliases=self.settings.names)
        return own


def choose_model(request: Request, name: str | None) -> Service:
    """The service for the model that a request names, from now on."""
    service = request.scope[SERVICE] = service_of(request).for_model(name)
    return service


def service_of(request: Request) -> Service:
    """The service that a request came to; once its model is known, with that one's engine."""
    service = request.scope.get(SERVICE) or request.app.state.service
    assert isinstance(service, Service)
    return service
