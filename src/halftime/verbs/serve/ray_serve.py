"""`halftime serve --ray`: the same application, with engines that are replicas of a Ray Serve
deployment.

`Drawer` holds one engine with its workers, and is what is replicated; all of them report to one
`Board`. Placement, scaling and restarts are Ray's. `run` keeps the HTTP side in this process, with
all that it defends and its orderly end. In a Serve config file or a RayService
(`import_path: halftime.verbs.serve.ray_serve:app`, with `args` as `Cluster` has them) it is a
deployment too, `Front`, behind Ray's own proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from halftime.base.errors import BadInput
from halftime.base.extras import optional
from halftime.verbs.serve.app import application
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.many_engines import ManyEngines
from halftime.verbs.serve.messages import (
    DEADLINE_SECONDS,
    EngineSettings,
    Event,
    Final,
    Job,
    JobFailed,
    NotAccepted,
    NotReady,
    QueueFull,
)
from halftime.verbs.serve.quotas import keys_in
from halftime.verbs.serve.ray_drawers import LOOK, PURPOSE, Drawers, NotTaken, moved
from halftime.verbs.serve.ray_resources import check_resources, need_of
from halftime.verbs.serve.run import run as run_server
from halftime.verbs.serve.service import API_KEY, HttpSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from halftime.verbs.serve.service import DrawingEngine

NAME = "halftime"  # of the application, and the first word of it where the model's follows
LOCAL = "local"  # for ray.init: a cluster of our own
_ROUTER = "halftime.verbs.serve.ray_router:AvoidingRouter"
_STALE = 5.0  # seconds without a report, after which a drawer counts as gone
_MARGIN = 5.0  # seconds beyond the drain before Ray ends a replica
_MANY = 10_000  # requests in one front at once: it bounds them itself, with an answer to each
# Of Ray's own processes, where it is started here: it would report to its makers, and give drawers
# the least of the processor's time (nice 15).
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
Watch = Callable[["DrawingEngine"], Coroutine[None, None, None]]


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Serve config file may set: the engine of each drawer, `replicas`, or for autoscaling
    `least` and `most`; a drawer's resources; and for the HTTP side what `halftime serve` has as
    options. The deadline is the engine's."""

    engine: EngineSettings = EngineSettings()
    name: str = "emoji-xl"  # of the model, for clients
    aliases: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()  # besides those of HALFTIME_API_KEY
    hosts: tuple[str, ...] = ()
    public_url: str = ""
    pictures: str = "memory"
    drain_seconds: Annotated[float, Meta(ge=0)] = 30.0
    replicas: Annotated[int, Meta(ge=1)] = 1
    least: Annotated[int, Meta(ge=1)] | None = None
    most: Annotated[int, Meta(ge=1)] | None = None
    upscale_seconds: Annotated[float, Meta(ge=0)] = 30.0  # of load, before another drawer is begun
    downscale_seconds: Annotated[float, Meta(ge=0)] = 600.0  # a drawer takes long to warm up
    cpus: Annotated[float, Meta(ge=0)] = 1.0
    gpus: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if self.least is not None and self.most is None:
            raise ValueError("`least` goes with `most`; without both there are `replicas`")
        if self.most is not None and (self.least or 1) > self.most:
            raise ValueError(f"`least` is {self.least}; it must be at most `most`, {self.most}")


class Board:
    """What every drawer said of itself last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, bytes]] = {}

    async def report(self, replica: str, status: bytes) -> None:
        """A drawer's status, as msgpack."""
        self._reports[replica] = (self._clock(), status)

    async def read(self) -> bytes:
        """Replica -> its status, of all that have reported lately."""
        oldest = self._clock() - _STALE
        self._reports = {name: pair for name, pair in self._reports.items() if pair[0] >= oldest}
        raw = {name: msgspec.Raw(status) for name, (_, status) in self._reports.items()}
        return msgspec.msgpack.encode(raw)


class Drawer:
    """One engine. Its replica counts as running once the certificate stands."""

    async def __init__(self, settings: EngineSettings, board: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        context = optional("ray.serve", "ray", PURPOSE).get_replica_context()
        self._name = context.replica_id.unique_id
        self._engine, self._board = Engine(settings), board
        await self._engine.start()
        self._reporting = asyncio.ensure_future(self._report())
        while self._engine.status.state not in ("ready", "failed"):
            await asyncio.sleep(LOOK)
        if self._engine.status.state == "failed":
            await asyncio.sleep(2 * LOOK)  # so that the board knows why
        self.check_health()

    async def _report(self) -> None:
        while True:
            data = msgspec.msgpack.encode(self._engine.status)
            with contextlib.suppress(Exception):  # the board is restarted: it is told soon
                await self._board.report.remote(self._name, data)
            await asyncio.sleep(LOOK)

    def check_health(self) -> None:
        """Ray replaces a replica whose engine has given up."""
        status = self._engine.status
        if status.state == "failed":
            raise RuntimeError(status.why)

    async def draw(self, data: bytes, avoid: tuple[str, ...] = ()) -> AsyncIterator[bytes]:
        """The events of a job; a refusal is its only word. `avoid` is for the router."""
        job = moved(msgspec.msgpack.decode(data, type=Job), time.monotonic())
        async for word in words_of(self._engine, job, self._name):
            yield msgspec.msgpack.encode(word)


async def words_of(
    engine: Engine, job: Job, replica: str, look: float = LOOK
) -> AsyncIterator[Event | NotTaken]:
    """What an engine says of a job. Where none of its workers is ready any more the job, which
    then only waits, goes back: another drawer may draw it at once."""
    try:
        events = engine.submit(job)
    except NotAccepted as error:
        yield refusal_of(error, job, replica)
        return
    coming: asyncio.Future[Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            arrived, _ = await asyncio.wait({coming}, timeout=look)
            if arrived:
                event, coming = coming.result(), None
                yield event
                if isinstance(event, Final | JobFailed):
                    return
            elif engine.status.state not in ("ready", "draining"):
                status = engine.status
                text = f"the drawer is {status.state}: {status.why}."
                yield refusal_of(NotReady(text, status.ready_in), job, replica)
                return
    finally:
        if coming is not None:
            coming.cancel()
        await events.aclose()


def refusal_of(error: NotAccepted, job: Job, replica: str) -> NotTaken | JobFailed:
    """What another drawer may take, or what none would."""
    if isinstance(error, QueueFull):
        return NotTaken(
            id=job.id,
            replica=replica,
            kind="queue_full",
            message=str(error),
            again=error.retry_after,
        )
    if isinstance(error, NotReady):
        return NotTaken(
            id=job.id, replica=replica, kind="not_ready", message=str(error), again=error.ready_in
        )
    return JobFailed(id=job.id, kind="bad_request", message=str(error), retryable=False)


class Front:
    """The HTTP side as a deployment, behind Ray's proxy."""

    def __init__(self, drawer: Any, board: Any, cluster: Cluster, settings: HttpSettings) -> None:
        engines = ManyEngines(cluster.least or cluster.replicas)
        self._drawers = Drawers(drawer, board, cluster.engine, engines)
        self._settings = with_environment(settings)

    def __serve_build_asgi_app__(self) -> Starlette:
        return application(self._drawers, self._settings)


def with_environment(settings: HttpSettings) -> HttpSettings:
    """The settings with the keys that this process's environment holds. Raises BadInput where the
    variable is set and blank."""
    keys = keys_in(API_KEY, os.environ.get(API_KEY))
    return replace(settings, api_keys=tuple(dict.fromkeys((*settings.api_keys, *keys))))


def http_settings(cluster: Cluster) -> HttpSettings:
    """The HTTP side that a config file asks for; the deadline is one for it and the engine."""
    return HttpSettings(
        model=cluster.name,
        aliases=cluster.aliases,
        api_keys=cluster.api_keys,
        hosts=cluster.hosts,
        public_url=cluster.public_url,
        pictures=cluster.pictures,
        deadline=cluster.engine.deadline_seconds or DEADLINE_SECONDS,
        drain_seconds=cluster.drain_seconds,
        most_pictures=cluster.engine.queue_limit * (cluster.most or cluster.replicas),
    )


def scaling_of(cluster: Cluster) -> dict[str, object]:
    """Ray's settings for how many drawers there are."""
    if cluster.most is None:
        return {"num_replicas": cluster.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": cluster.least or 1,
            "max_replicas": cluster.most,
            # one batch is drawn and another waits
            "target_ongoing_requests": 2 * cluster.engine.max_batch,
            "upscale_delay_s": cluster.upscale_seconds,
            "downscale_delay_s": cluster.downscale_seconds,
        }
    }


def drawer_options(cluster: Cluster) -> dict[str, object]:
    """Ray's settings of the deployment of drawers."""
    engine = cluster.engine
    return {
        "name": "Drawer",
        # more wait at the front, where they can go elsewhere
        "max_ongoing_requests": engine.queue_limit + engine.max_batch * engine.workers,
        "ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        "request_router_config": {"request_router_class": _ROUTER},
        # scaled down or rolled over, it finishes what it has
        "graceful_shutdown_timeout_s": _longest(cluster),
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 15.0,
        **scaling_of(cluster),
    }


def _longest(cluster: Cluster) -> float:
    return max(cluster.drain_seconds, cluster.engine.deadline_seconds or 0.0) + _MARGIN


def _deployments(cluster: Cluster) -> tuple[Any, Any]:
    """The drawers and the board that they report to."""
    serve = optional("ray.serve", "ray", PURPOSE)
    board = serve.deployment(Board).options(
        name="Board", max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0}
    )
    bound_board = board.bind()
    drawer = serve.deployment(Drawer).options(**drawer_options(cluster))
    return drawer.bind(cluster.engine, bound_board), bound_board


def application_of(cluster: Cluster, settings: HttpSettings) -> Any:
    """The whole Ray Serve application, its HTTP side included."""
    serve = optional("ray.serve", "ray", PURPOSE)
    drawer, board = _deployments(cluster)
    front = serve.deployment(serve.ingress()(Front)).options(
        name="Front",
        max_ongoing_requests=_MANY,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=_longest(cluster),
    )
    return front.bind(drawer, board, cluster, settings)


def app(args: dict[str, object]) -> Any:
    """For `import_path` in a Serve config file: `args` as `Cluster` has them; keys may also stand
    in HALFTIME_API_KEY. Raises msgspec.ValidationError, BadInput."""
    cluster = msgspec.convert(args, Cluster)
    return application_of(cluster, with_environment(http_settings(cluster)))


# ---- with the HTTP side in this process


def run(
    cluster: Cluster,
    settings: HttpSettings,
    open_listener: Callable[[], socket.socket],
    watch: Watch | None = None,
    wrap: Callable[[ASGIApp], ASGIApp] | None = None,
    *,
    given_cpus: float | None = None,
    given_gpus: float | None = None,
) -> int:
    """Serve on this machine, or on the cluster that RAY_ADDRESS names, until SIGTERM or SIGINT; the
    exit code, as of `halftime.verbs.serve.run.run`. The socket is opened once Ray has started, so
    that nobody waits for an answer before. Raises BadInput where the drawers do not fit."""
    ray, serve = optional("ray", "ray", PURPOSE), optional("ray.serve", "ray", PURPOSE)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    own = address == LOCAL
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            include_dashboard=False if own else None,
            log_to_driver=False,
            configure_logging=False,
        )
    except ConnectionError as error:
        raise BadInput(f"RAY_ADDRESS is {address}; no Ray cluster answers there.") from error
    try:
        cluster = _checked(ray, cluster, given_cpus, given_gpus)
        listener = open_listener()
        engine = _start(serve, cluster, app_name(settings.model))
        return run_server(engine, settings, listener, watch, wrap)
    finally:
        _stop(ray, serve, app_name(settings.model), own=own)


def app_name(model: str) -> str:
    """The application's name on the cluster, which others may use, too: by the model's, so that a
    server that starts anew takes the place of the one before."""
    return f"{NAME}-{re.sub(r'[^A-Za-z0-9]+', '-', model).strip('-')}"


def _checked(ray: Any, cluster: Cluster, cpus: float | None, gpus: float | None) -> Cluster:
    """The cluster's settings with what a drawer needs, which is there. Raises BadInput."""
    engine = cluster.engine
    need = need_of(engine.device, engine.workers, cpus, gpus, ray.cluster_resources())
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    drawers = cluster.least or cluster.replicas
    check_resources(need, drawers, nodes, ray.available_resources())
    return msgspec.structs.replace(cluster, cpus=need.cpus, gpus=need.gpus)


def _start(serve: Any, cluster: Cluster, name: str) -> Drawers:
    """Begin to place the drawers, without waiting for them."""
    serve.start(proxy_location="Disabled")
    drawer, _ = _deployments(cluster)
    serve.run_many(
        [serve.RunTarget(target=drawer, name=name, route_prefix=None)],
        wait_for_ingress_deployment_creation=True,
        wait_for_applications_running=False,
    )
    return Drawers(
        serve.get_deployment_handle("Drawer", name),
        serve.get_deployment_handle("Board", name),
        cluster.engine,
        ManyEngines(cluster.least or cluster.replicas),
        trouble=partial(asyncio.to_thread, _trouble, serve, name),
    )


def _trouble(serve: Any, name: str) -> str | None:
    """Why Ray has given up on the application; None while it has not."""
    status = serve.status().applications.get(name)
    if status is None:
        return "the application is gone from the cluster"
    return str(status.message) if status.status == "DEPLOY_FAILED" else None


def _stop(ray: Any, serve: Any, name: str, *, own: bool) -> None:
    """End our application; on a cluster of others nothing else of it."""
    if own:
        serve.shutdown()
    else:
        with contextlib.suppress(Exception):  # the cluster itself may be gone
            serve.delete(name)
    ray.shutdown()
