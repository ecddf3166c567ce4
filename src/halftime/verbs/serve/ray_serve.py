"""`halftime serve --ray`: the same application and the same engine as two Ray Serve deployments.

`Front` is the HTTP side, stateless; `Drawer` holds one engine with its worker, and is what is
replicated. A drawer that dies takes nothing along: the front asks another one. Placement, scaling
and restarts are Ray's.

In a Serve config file: `import_path: halftime.verbs.serve.ray_serve:app`, with `args` as `Cluster`
has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from halftime.base.extras import optional
from halftime.records.serve import EngineStatus
from halftime.verbs.serve.app import application
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import (
    EngineSettings,
    Event,
    FailureKind,
    Final,
    Job,
    JobFailed,
    NotAccepted,
    NotReady,
    PreviewCounter,
    QueueFull,
)
from halftime.verbs.serve.queue import fitted
from halftime.verbs.serve.service import HttpSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

NAME = "halftime"
_PURPOSE = "halftime serve --ray"
_LOOK = 0.5  # seconds between looks at the drawers' state
_TRIES = 3  # of a picture, each with another drawer
_events = msgspec.msgpack.Decoder(Event)


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Serve config file may set: `replicas`, or for autoscaling `least` and `most`; a
    drawer's resources."""

    engine: EngineSettings = EngineSettings()
    name: str = "emoji-xl"  # of the model, for clients
    api_keys: tuple[str, ...] = ()
    replicas: int = 1
    least: int | None = None
    most: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0


class Drawer:
    """One engine. Its replica counts as running once the certificate stands."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]  # Ray awaits it
        self._engine = Engine(settings)
        await self._engine.start()
        while self._engine.status.state not in ("ready", "failed"):
            await asyncio.sleep(_LOOK)
        self.check_health()

    def check_health(self) -> None:
        """Ray replaces a replica whose engine has given up."""
        status = self._engine.status
        if status.state == "failed":
            raise RuntimeError(status.why)

    async def status(self) -> bytes:
        """The engine's status, as JSON."""
        return msgspec.json.encode(self._engine.status)

    async def draw(self, data: bytes) -> AsyncIterator[bytes]:
        """The events of a job; a refusal is its only event."""
        job = moved(msgspec.msgpack.decode(data, type=Job), time.monotonic())
        try:
            events = self._engine.submit(job)
        except NotAccepted as error:
            kind: FailureKind = "deadline" if isinstance(error, QueueFull) else "draining"
            yield _packed(JobFailed(id=job.id, kind=kind, message=str(error), retryable=True))
            return
        try:
            async for event in events:
                yield _packed(event)
        finally:
            await events.aclose()


def moved(job: Job, seconds: float) -> Job:
    """The job with its deadline moved: between machines it travels as the seconds that are left,
    since each has a clock of its own."""
    if job.deadline is None:
        return job
    return msgspec.structs.replace(job, deadline=job.deadline + seconds)


def _packed(event: Event) -> bytes:
    return msgspec.msgpack.encode(event)


@dataclass
class Drawers:
    """An engine, as the HTTP side wants one, made of all drawers. `handle` is Ray's handle of the
    deployment."""

    handle: Any
    settings: EngineSettings
    replicas: int
    _status: EngineStatus = field(
        default_factory=lambda: EngineStatus(state="starting", why="the first drawer starts")
    )
    _open: dict[str, _DrawerEvents] = field(default_factory=dict)
    _watch: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """The state and certificate of one drawer, with our own count of what waits and is
        drawn."""
        return msgspec.structs.replace(self._status, running=len(self._open), worker_pid=None)

    async def start(self) -> None:
        """Begin to look after the drawers."""
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            # whatever Ray raises while it places replicas: ask again
            with contextlib.suppress(Exception):
                status = msgspec.json.decode(await self.handle.status.remote(), type=EngineStatus)
                if status.state == "ready" or self._status.state != "ready":
                    self._status = status
            await asyncio.sleep(_LOOK)

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
        if self._status.state != "ready" or self._status.certificate is None:
            raise NotReady(f"the server is {self._status.state}: {self._status.why}.")
        job = fitted(job, self._status.certificate, self.settings.off_list)
        most = self.replicas * self.settings.queue_limit
        if len(self._open) >= most:
            raise QueueFull(
                f"{most} pictures wait, the limit: come back later.", self._retry_after(most)
            )
        stream = self._open[job.id] = _DrawerEvents(self, job)
        return stream

    def _retry_after(self, waiting: int) -> float:
        return max(1.0, waiting * (self._status.seconds_per_picture or 1.0) / (2 * self.replicas))

    def done(self, job_id: str) -> None:
        """A job has its answer, or nobody waits for one."""
        self._open.pop(job_id, None)

    async def drain(self, timeout: float) -> None:
        """Wait for what was accepted; the drawers end with the application."""
        end = time.monotonic() + timeout
        self._status = msgspec.structs.replace(
            self._status, state="draining", why="finishing what was accepted"
        )
        while self._open and time.monotonic() < end:
            await asyncio.sleep(_LOOK)
        if self._watch is not None:
            self._watch.cancel()


class _DrawerEvents:
    """The events of one job, from whichever drawer lives long enough."""

    def __init__(self, drawers: Drawers, job: Job) -> None:
        self._drawers, self._job = drawers, job
        self._tries, self._over = 0, False
        self._previews = PreviewCounter()
        self._remote: Any = None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        # numbered here: another drawer would begin anew
        event = self._previews.numbered(await self._next())
        if isinstance(event, Final | JobFailed):
            self._end()
        return event

    async def _next(self) -> Event:
        ray_errors = optional("ray.exceptions", "ray", _PURPOSE)
        while True:
            try:
                if self._remote is None:
                    self._tries += 1
                    data = msgspec.msgpack.encode(moved(self._job, -time.monotonic()))
                    self._remote = self._drawers.handle.draw.options(stream=True).remote(data)
                event: Event = _events.decode(await self._remote.__anext__())
                return event
            except (
                ray_errors.RayActorError,
                ray_errors.ActorUnavailableError,
                StopAsyncIteration,
            ) as error:
                self._remote = None
                if self._tries >= _TRIES:
                    name = type(error).__name__
                    message = f"{_TRIES} drawers ended while they drew this picture ({name})."
                    return JobFailed(
                        id=self._job.id, kind="crashed", message=message, retryable=True
                    )

    async def aclose(self) -> None:
        """Cancel; a drawer stops within a step."""
        if not self._over and self._remote is not None:
            self._remote.cancel()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._drawers.done(self._job.id)


class Front:
    """The HTTP side."""

    def __init__(self, handle: Any, cluster: Cluster, settings: HttpSettings) -> None:
        self._drawers = Drawers(handle, cluster.engine, cluster.most or cluster.replicas)
        self._settings = settings

    def __serve_build_asgi_app__(self) -> Starlette:
        return application(self._drawers, self._settings)


def application_of(cluster: Cluster, settings: HttpSettings) -> Any:
    """The Ray Serve application, to be run by `serve.run` or a config file."""
    serve = optional("ray.serve", "ray", _PURPOSE)
    engine = cluster.engine
    # more wait at the front, where they can go elsewhere
    ongoing = engine.queue_limit + engine.max_batch
    scaling: dict[str, object] = {"num_replicas": cluster.replicas}
    if cluster.most is not None:
        bounds = {"min_replicas": cluster.least or 1, "max_replicas": cluster.most}
        scaling = {
            "autoscaling_config": {**bounds, "target_ongoing_requests": 2 * engine.max_batch}
        }
    resources = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}
    drawer = serve.deployment(Drawer).options(
        name="Drawer", max_ongoing_requests=ongoing, ray_actor_options=resources, **scaling
    )
    front = serve.deployment(serve.ingress()(Front)).options(
        name="Front", max_ongoing_requests=math.ceil(1e4), ray_actor_options={"num_cpus": 0.1}
    )
    return front.bind(drawer.bind(engine), cluster, settings)


def app(args: dict[str, object]) -> Any:
    """For `import_path` in a Serve config file: `args` as `Cluster` has them. Raises
    msgspec.ValidationError."""
    cluster = msgspec.convert(args, Cluster)
    return application_of(cluster, HttpSettings(model=cluster.name, api_keys=cluster.api_keys))


def run(
    engine: EngineSettings, settings: HttpSettings, host: str, port: int, replicas: int = 1
) -> int:
    """Serve on this machine, or on the cluster that RAY_ADDRESS names, until SIGTERM or SIGINT.
    0."""
    ray, serve = optional("ray", "ray", _PURPOSE), optional("ray.serve", "ray", _PURPOSE)
    ray.init(
        ignore_reinit_error=True,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    serve.start(http_options={"host": host, "port": port})
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    serve.run(
        application_of(Cluster(engine=engine, replicas=replicas), settings),
        name=NAME,
        route_prefix="/",
    )
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
    return 0
