"""`halftime serve`: parse, listen, serve until told to stop; the exit code says whether everything
was answered."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.extras import optional
from halftime.base.listening import address_of, listening_socket
from halftime.base.units import parse_seconds, parse_share
from halftime.cli.options import (
    artefacts_option,
    model_argument,
    parse_size,
    quiet_option,
    source_options,
    take_artefacts,
)
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.run import LOOPBACK, check_installed, hosts_for, run
from halftime.verbs.serve.source import source_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from starlette.types import ASGIApp

    from halftime.records.serve import Certificate, EngineStatus
    from halftime.verbs.serve.models import ModelEngines
    from halftime.verbs.serve.service import DrawingEngine, HttpSettings

    Wrap = Callable[[ASGIApp], ASGIApp]

logger = logging.getLogger("halftime.serve")
_LOOK = 0.1  # seconds between looks at the engine's state


@click.command()
@model_argument
@click.option(
    "--recipe", metavar="TOML", help="Fixes to apply: a plan, or a recipe that tune wrote."
)
@click.option(
    "--shadow",
    metavar="SHARE",
    help="With a recipe that carries a certificate: draw this share of the pictures, such as 1%, "
    "again without it, and raise an alarm where more differ visibly than was certified.",
)
@click.option(
    "--on-drift",
    type=click.Choice(["alarm", "exact"]),
    default="alarm",
    show_default=True,
    help="exact: after that alarm go on without the recipe's approximate fixes.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 serves the network.")
@click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A host name that clients may ask under; may be repeated. On a loopback address others "
    "than localhost are refused, elsewhere others than these, where there are any.",
)
@click.option(
    "--public-url",
    metavar="URL",
    help="Where clients reach the server, for pictures by URL; behind a proxy.",
)
@click.option(
    "--pictures",
    default="memory",
    show_default=True,
    metavar="memory|off|DIR|URL",
    help="Where pictures by URL are kept. Several replicas need a folder, or a bucket that fsspec "
    "reads, that all of them share; or 'off'.",
)
@click.option(
    "--keys",
    type=click.Path(),
    metavar="TOML",
    help="Keys with names and limits; a [NAME] each, with secret, pictures_per_minute, waiting.",
)
@click.option(
    "--name",
    help="The model's name for clients.  [default: the folder's, file's or hub id's; emoji-xl]",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME",
    help="Another name of the model, for clients that can ask for no other: gpt-image-1. May be "
    "repeated.",
)
@click.option(
    "--models",
    type=click.Path(),
    metavar="TOML",
    help="Several models behind this address, in place of MODEL; a [NAME] each, with model, and "
    "what differs from the options here: sizes, steps, device, aliases.",
)
@click.option(
    "--sizes",
    metavar="N|WxH[,…]",
    help="Sizes to offer; each is warmed up.  [default: the pipeline's own]",
)
@click.option(
    "--steps", default="10,20,30", show_default=True, metavar="N[,…]", help="Step counts to offer."
)
@click.option(
    "--frames",
    metavar="N[,…]",
    help="For a pipeline that makes videos: how many frames to offer.  [default: its own number]",
)
@click.option(
    "--fps",
    default=16.0,
    type=click.FloatRange(0, min_open=True),
    show_default=True,
    help="Frames a second of its files.",
)
@click.option(
    "--max-batch",
    default=2,
    type=click.IntRange(1),
    show_default=True,
    help="Pictures drawn together at most.",
)
@click.option(
    "--scheduling",
    type=click.Choice(["call", "step"]),
    default="call",
    show_default=True,
    help="What a worker decides anew: the next call of the pipeline, or the next step, so that "
    "short requests do not wait for long ones.",
)
@click.option(
    "--policy",
    type=click.Choice(["head-start", "shortest", "deadline", "fair", "first-come"]),
    default="head-start",
    show_default=True,
    help="With --scheduling step: whose step is next.",
)
@click.option(
    "--queue",
    default=32,
    type=click.IntRange(1),
    show_default=True,
    help="Pictures that may wait; the next one gets 429.",
)
@click.option(
    "--deadline",
    default="60s",
    show_default=True,
    help="From a request's arrival to its picture, at most.",
)
@click.option(
    "--off-list",
    type=click.Choice(["snap", "refuse"]),
    default="refuse",
    show_default=True,
    help="Sizes and steps that are not offered: answer 400, or take the nearest and say so.",
)
@click.option(
    "--scheduler",
    help="A diffusers scheduler by class name, for example DPMSolverMultistepScheduler.",
)
@click.option(
    "--dtype", help="float32, bfloat16 or float16, from loading on.  [default: as loaded]"
)
@click.option("--device", help="cpu, cuda, cuda:N, xpu or mps.  [default: the best here]")
@source_options
@click.option(
    "--threads", type=click.IntRange(1), help="torch's threads in the worker.  [default: all cores]"
)
@click.option(
    "--workers",
    default=1,
    type=click.IntRange(1),
    show_default=True,
    help="Processes that draw, each with its own copy of the model; with several GPUs one on each.",
)
@click.option(
    "--tiny-vae",
    metavar="DIR|ID",
    help="Decoder of the previews.  [default: the bundled model's own]",
)
@click.option(
    "--loras",
    metavar="DIR",
    help="A folder of *.safetensors: each is offered by its file's name, one a request.",
)
@artefacts_option
@click.option(
    "--drain", default="30s", show_default=True, help="On SIGTERM, for what is running to finish."
)
@click.option(
    "--selftest",
    is_flag=True,
    help="Once ready, load it at half, once and three times what it can draw, say what came of it, "
    "and end: 0 where everything held.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: a line a record, with request id, the key's name and timings; for collectors.",
)
@click.option(
    "--otel",
    is_flag=True,
    help="Trace requests with OpenTelemetry, to where OTEL_EXPORTER_OTLP_ENDPOINT says.",
)
@click.option(
    "--ray",
    is_flag=True,
    help="As a Ray Serve deployment, on the cluster that RAY_ADDRESS names or here.",
)
@click.option(
    "--replicas",
    default=1,
    type=click.IntRange(1),
    show_default=True,
    help="With --ray: engines, each with its --workers.",
)
@click.option(
    "--max-replicas",
    type=click.IntRange(1),
    help="With --ray: as many as load makes necessary, from --replicas up to these.",
)
@click.option(
    "--replica-cpus",
    type=click.FloatRange(0),
    help="With --ray: cores that Ray sets aside for a replica.  [default: 1]",
)
@click.option(
    "--replica-gpus",
    type=click.FloatRange(0),
    help="With --ray: the same of GPUs.  [default: one for each of its --workers, where it draws "
    "on GPUs]",
)
@quiet_option
def command(
    model: str | None,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    public_url: str | None,
    pictures: str,
    keys: str | None,
    name: str | None,
    aliases: tuple[str, ...],
    deadline: str,
    drain: str,
    ray: bool,
    replicas: int,
    max_replicas: int | None,
    replica_cpus: float | None,
    replica_gpus: float | None,
    selftest: bool,
    log_format: str,
    otel: bool,
    quiet: bool,
    models: str | None,
    **engine_values: object,
) -> int:
    """Serve pictures over OpenAI's images API: warm before ready, preview then final, nothing lost.

    MODEL is a diffusers folder, a checkpoint in one file, a hub id or module:function; left out,
    the bundled emoji-xl. The page is at /, the API under /v1, the warm-up certificate at /readyz,
    Prometheus metrics at /metrics.

    HALFTIME_API_KEY in the environment sets the key that /v1 asks for (several with commas
    between); HALFTIME_PROFILE_TOKEN turns on /profile. SIGTERM drains: what runs is finished, what
    comes gets 503, exit code 0.
    """
    check_installed()
    engine_settings = _engine_settings(model, deadline, engine_values)
    settings = _http_settings(
        name or _name_of(model),
        deadline,
        drain,
        (max_replicas or replicas) * engine_settings.queue_limit,
        host=host,
        allow_host=allow_host,
        public_url=public_url,
        pictures=pictures,
        keys=keys,
    )
    settings = replace(settings, aliases=checked_aliases(aliases))
    engines, settings = _several(models, model, ray, engine_settings, settings)
    cluster = _RayOptions(replicas, max_replicas, replica_cpus, replica_gpus)
    if cluster != _RayOptions() and not ray:
        raise BadInput(f"{cluster.words} goes with --ray; without it there is one engine.")
    with _tracing(otel) as wrap:
        screen = _screen(quiet or selftest, log_format, otel)
        screen.selftest = selftest
        if ray:
            code = _serve_with_ray(engine_settings, settings, (host, port), screen, wrap, cluster)
        else:
            code = _serve(engines or engine_settings, settings, (host, port), screen, wrap)
        return code or screen.selftest_code


@dataclass(frozen=True)
class _RayOptions:
    """The options that go with --ray."""

    replicas: int = 1
    max_replicas: int | None = None
    replica_cpus: float | None = None
    replica_gpus: float | None = None

    @property
    def words(self) -> str:
        """Those that were used, as they were written."""
        defaults = vars(_RayOptions())
        used = {name: value for name, value in vars(self).items() if value != defaults[name]}
        return ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in used.items())

    @property
    def bounds(self) -> dict[str, int]:
        """The number of replicas, as `Cluster` has it. Raises BadInput."""
        if self.max_replicas is None:
            return {"replicas": self.replicas}
        if self.max_replicas < self.replicas:
            raise BadInput(
                f"--max-replicas is {self.max_replicas}; it must be at least --replicas, "
                f"{self.replicas}."
            )
        return {"replicas": self.replicas, "least": self.replicas, "most": self.max_replicas}


def _engine_settings(model: str | None, deadline: str, values: dict[str, object]) -> EngineSettings:
    settings = {
        "shadow": _shadow_share(values.pop("shadow", None), values.get("on_drift")),
        "sizes": parse_sizes(values.pop("sizes")),
        "steps": parse_steps(str(values.pop("steps"))),
        "frames": parse_steps(str(frames), "--frames") if (frames := values.pop("frames")) else (),
        "queue_limit": values.pop("queue"),
        "deadline_seconds": parse_seconds(deadline),
        **{
            name: value
            for name, value in values.items()
            if value is not None and name in EngineSettings.__struct_fields__
        },
    }
    if not settings["deadline_seconds"]:
        raise BadInput("--deadline is 0; it must be more, for example 60s.")
    settings["artefacts"] = take_artefacts(values.get("artefacts"), values.get("recipe"))  # type: ignore[arg-type]
    engine = EngineSettings(model=model, **settings)  # type: ignore[arg-type]
    source_of(engine)  # a bad dtype is refused here, before a worker is begun
    return engine


def _shadow_share(text: object, on_drift: object) -> float:
    """Raises BadInput for what is no share of the pictures, and for what would follow an alarm that
    cannot come."""
    if text is None:
        if on_drift == "exact":
            raise BadInput(
                "--on-drift exact is for the alarm that --shadow raises: add --shadow 1%, or leave "
                "--on-drift out."
            )
        return 0.0
    share = parse_share(str(text))
    if share > 1:
        raise BadInput(f"--shadow is {text}; it must be 100% or less, for example 1%.")
    return share


def checked_aliases(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they are asked for. Raises BadInput for one without a letter."""
    if not all(name.strip() for name in names):
        raise BadInput("--alias is empty; it must be a name, for example --alias gpt-image-1.")
    return tuple(name.strip() for name in names)


def parse_sizes(text: object) -> tuple[tuple[int, int], ...]:
    """'512,768x512' -> ((512, 512), (768, 512)); None -> (). Raises BadWorkload."""
    return tuple(parse_size(word) for word in str(text).split(",")) if text else ()


def parse_steps(text: str, option: str = "--steps") -> tuple[int, ...]:
    """'10,20' -> (10, 20). Raises BadInput."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise BadInput(
            f"{option} {text!r} is not a list of numbers. Write for example {option} 10,20,30."
        )
    return tuple(int(word) for word in words)


def _http_settings(
    name: str,
    deadline: str,
    drain: str,
    queue: int,
    *,
    host: str = "127.0.0.1",
    allow_host: tuple[str, ...] = (),
    public_url: str | None = None,
    pictures: str = "memory",
    keys: str | None = None,
) -> HttpSettings:
    from halftime.verbs.serve.quotas import keys_in, read_keys
    from halftime.verbs.serve.service import API_KEY, PROFILE_TOKEN, HttpSettings

    token = keys_in(PROFILE_TOKEN, os.environ.get(PROFILE_TOKEN))
    return HttpSettings(
        model=name,
        api_keys=keys_in(API_KEY, os.environ.get(API_KEY)),
        keys=read_keys(Path(keys)) if keys else {},
        profile_token=token[0] if token else "",
        hosts=hosts_for(host, allow_host),
        public_url=public_url or "",
        pictures=pictures,
        deadline=parse_seconds(deadline),
        drain_seconds=parse_seconds(drain),
        most_pictures=queue,
    )


def _name_of(model: str | None) -> str:
    """What clients call the model: 'emoji-xl', a folder's last part, a file's without its ending,
    or what was given."""
    if model in (None, "bundled"):
        return "emoji-xl"
    assert model is not None
    path = Path(model).resolve()
    if path.is_file():
        return path.stem
    return path.name if path.exists() else model


def _several(
    path: str | None, model: str | None, ray: bool, common: EngineSettings, settings: HttpSettings
) -> tuple[ModelEngines | None, HttpSettings]:
    """The engines of a --models file, and the settings with all their names. Raises BadInput."""
    if path is None:
        return None, settings
    from halftime.verbs.serve.engine import Engine
    from halftime.verbs.serve.models import ModelEngines, read_models

    if model is not None:
        raise BadInput(f"--models names the models; leave {model!r} out, or name it in {path}.")
    if ray:
        raise BadInput("--models does not go with --ray: deploy an application for each model.")
    models = read_models(Path(path), common)
    default = models[0].name
    aliases = {alias: entry.name for entry in models for alias in entry.aliases}
    aliases |= dict.fromkeys(settings.aliases, default)
    names = [entry.name for entry in models]
    settings = replace(settings, model=default, aliases=(*names[1:], *aliases))
    return ModelEngines({entry.name: Engine(entry.engine) for entry in models}, aliases), settings


def _serve(
    engine: EngineSettings | ModelEngines,
    settings: HttpSettings,
    address: tuple[str, int],
    screen: _ServeScreen,
    wrap: Wrap | None,
) -> int:
    from halftime.verbs.serve.engine import Engine

    listener = _opened(settings, address, screen)
    drawing = Engine(engine) if isinstance(engine, EngineSettings) else engine
    return run(drawing, settings, listener, screen.watch, wrap)


def _opened(
    settings: HttpSettings, address: tuple[str, int], screen: _ServeScreen, suffix: str = ""
) -> socket.socket:
    """The socket, announced."""
    from halftime.http.server import STALLED_SECONDS

    listener = listening_socket(*address, stalled_seconds=STALLED_SECONDS)
    # One plain line on standard output, for people and for scripts that let the port be chosen.
    click.echo(f"halftime serve on {address_of(listener)} with {settings.model}{suffix}")
    screen.address = address_of(listener)
    screen.key = next(
        iter([*settings.api_keys, *(key.secret for key in settings.keys.values())]), ""
    )
    if address[0] not in LOOPBACK and not settings.has_keys:
        text = "Anybody who reaches this address can draw: set HALFTIME_API_KEY, or --keys."
        screen.say(text, "yellow", logging.WARNING)
    return listener


def _serve_with_ray(
    engine_settings: EngineSettings,
    settings: HttpSettings,
    address: tuple[str, int],
    screen: _ServeScreen,
    wrap: Wrap | None,
    options: _RayOptions,
) -> int:
    optional("ray", "ray", "halftime serve --ray")
    from halftime.verbs.serve import ray_serve

    cluster = ray_serve.Cluster(
        engine=engine_settings,
        name=settings.model,
        drain_seconds=settings.drain_seconds,
        **options.bounds,  # type: ignore[arg-type]
    )
    return ray_serve.run(
        cluster,
        settings,
        partial(_opened, settings, address, screen, ", by Ray Serve"),
        screen.watch,
        wrap,
        given_cpus=options.replica_cpus,
        given_gpus=options.replica_gpus,
    )


@contextmanager
def _tracing(enabled: bool) -> Iterator[Wrap | None]:
    """What puts tracing around the application; at the end the last spans are sent."""
    if not enabled:
        yield None
        return
    from halftime.verbs.serve.tracing import exporting, traced

    provider = exporting()
    try:
        yield lambda app: traced(app, provider)
    finally:
        provider.shutdown()


def _screen(quiet: bool, log_format: str, otel: bool) -> _ServeScreen:
    """The log, a line a request, and where the warm-up and alarms are told: on the screen, or where
    the log is for a collector in the log."""
    level = logging.WARNING if quiet else logging.INFO
    if log_format == "text":
        from rich.console import Console

        logging.basicConfig(level=level, format="%(asctime)s %(message)s")
        screen = _ServeScreen(Console(stderr=True, highlight=False, quiet=quiet))
    else:
        from halftime.http.access_log import JsonLines
        from halftime.verbs.serve.tracing import trace_fields

        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines(trace_fields) if otel else JsonLines())
        logging.basicConfig(level=level, handlers=[handler])
        screen = _ServeScreen(None)
    # what the screen says already is left out
    for name in ("uvicorn", "halftime.verbs.serve.engine", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return screen


@dataclass
class _ServeScreen:
    """Tells how the warm-up goes, and every alarm after it: on a console, or in the log. With
    `selftest` it loads the server at this address, with this key, and then ends it."""

    console: Console | None
    selftest: bool = False
    selftest_code: int = 0
    address: str = ""
    key: str = ""

    def say(self, text: str, style: str, level: int) -> None:
        """A line."""
        if self.console is None:
            logger.log(level, text)
        else:
            self.console.print(text, style=style, soft_wrap=True)

    async def watch(self, engine: DrawingEngine) -> None:
        """Runs beside the server."""
        begun = time.monotonic()
        status = await self._warmed(engine)
        if status.certificate is not None:
            took = units.seconds(time.monotonic() - begun)
            self.say(f"ready in {took}: {_summary(status.certificate)}", "green", logging.INFO)
            if self.selftest:
                await self._test()
        # of a failure the warm-up has reported the alarms already
        reported = status.alarm_count if status.state == "failed" else 0
        while True:
            status = engine.status
            for alarm in new_alarms(status, reported):
                self.say(f"alarm: {alarm}", "bold red", logging.ERROR)
            reported = status.alarm_count
            await asyncio.sleep(_LOOK)

    async def _test(self) -> None:
        """Load from a process of its own, and then the server's end."""
        from halftime.verbs.serve.service import API_KEY

        environment = {**os.environ, API_KEY: self.key}
        words = ("-P", "-m", "halftime.verbs.serve.selftest", self.address)
        child = await asyncio.create_subprocess_exec(sys.executable, *words, env=environment)
        self.selftest_code = await child.wait()
        signal.raise_signal(signal.SIGTERM)

    async def _warmed(self, engine: DrawingEngine) -> EngineStatus:
        """The status once the engine is ready or has failed; until then one line that changes, on a
        terminal."""
        console = self.console if self.console is not None and self.console.is_terminal else None
        with console.status("starting") if console else nullcontext() as line:
            while (status := engine.status).state not in ("ready", "failed"):
                if line is not None:
                    line.update(f"{status.state}: {status.why}")
                await asyncio.sleep(_LOOK)
        if status.state == "failed":
            self.say(f"failed: {status.why}", "bold red", logging.ERROR)
        return status


def new_alarms(status: EngineStatus, reported: int) -> tuple[str, ...]:
    """The alarms after the first `reported` ones, as far as the engine still holds them."""
    new = min(status.alarm_count - reported, len(status.alarms))
    return status.alarms[len(status.alarms) - new :]


def _summary(certificate: Certificate) -> str:
    sizes = ", ".join(f"{width}x{height}" for width, height in certificate.sizes)
    steps = ", ".join(map(str, certificate.steps))
    kinds = len(certificate.entries)
    return f"{kinds} kinds of call ran {certificate.passes} times; sizes {sizes}; steps {steps}"
