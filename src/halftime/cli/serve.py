"""`halftime serve`: parse, listen, serve until told to stop; the exit code says whether everything
was answered."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.base.extras import optional
from halftime.base.listening import address_of, listening_socket
from halftime.base.units import parse_seconds
from halftime.cli.options import (
    artefacts_option,
    model_argument,
    parse_size,
    quiet_option,
    take_artefacts,
)
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.run import LOOPBACK, check_installed, hosts_for, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rich.console import Console

    from halftime.records.serve import Certificate, EngineStatus
    from halftime.verbs.serve.service import DrawingEngine, HttpSettings


_LOOK = 0.1  # seconds between looks at the engine's state


@click.command()
@model_argument
@click.option(
    "--recipe", metavar="TOML", help="Fixes to apply: a plan, or a recipe that tune wrote."
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
    "--name", help="The model's name for clients.  [default: the folder's or hub id's; emoji-xl]"
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
    "--sizes",
    metavar="N|WxH[,…]",
    help="Sizes to offer; each is warmed up.  [default: the pipeline's own]",
)
@click.option(
    "--steps", default="10,20,30", show_default=True, metavar="N[,…]", help="Step counts to offer."
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
    type=click.Choice(["shortest", "deadline", "fair", "first-come"]),
    default="shortest",
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
@click.option("--dtype", help="float32, bfloat16 or float16.  [default: as loaded]")
@click.option("--device", help="cpu, cuda, cuda:N, xpu or mps.  [default: the best here]")
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
    quiet: bool,
    **engine_values: object,
) -> int:
    """Serve pictures over OpenAI's images API: warm before ready, preview then final, nothing lost.

    MODEL is a diffusers folder, a hub id or module:function; left out, the bundled emoji-xl. The
    page is at /, the API under /v1, the warm-up certificate at /readyz, Prometheus metrics at
    /metrics.

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
        replicas * engine_settings.queue_limit,
        host=host,
        allow_host=allow_host,
        public_url=public_url,
        pictures=pictures,
        keys=keys,
    )
    settings = replace(settings, aliases=checked_aliases(aliases))
    if replicas > 1 and not ray:
        raise BadInput(f"--replicas {replicas} goes with --ray; without it there is one engine.")
    if ray:
        return _serve_with_ray(engine_settings, settings, host, port, replicas)
    return _serve(engine_settings, settings, host, port, quiet)


def _engine_settings(model: str | None, deadline: str, values: dict[str, object]) -> EngineSettings:
    settings = {
        "sizes": parse_sizes(values.pop("sizes")),
        "steps": parse_steps(str(values.pop("steps"))),
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
    return EngineSettings(model=model, **settings)  # type: ignore[arg-type]


def checked_aliases(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as they are asked for. Raises BadInput for one without a letter."""
    if not all(name.strip() for name in names):
        raise BadInput("--alias is empty; it must be a name, for example --alias gpt-image-1.")
    return tuple(name.strip() for name in names)


def parse_sizes(text: object) -> tuple[tuple[int, int], ...]:
    """'512,768x512' -> ((512, 512), (768, 512)); None -> (). Raises BadWorkload."""
    return tuple(parse_size(word) for word in str(text).split(",")) if text else ()


def parse_steps(text: str) -> tuple[int, ...]:
    """'10,20' -> (10, 20). Raises BadInput."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise BadInput(
            f"--steps {text!r} is not a list of step counts. Write for example --steps 10,20,30."
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
    """What clients call the model: 'emoji-xl', a folder's last part, or what was given."""
    if model in (None, "bundled"):
        return "emoji-xl"
    assert model is not None
    return Path(model).resolve().name if Path(model).exists() else model


def _serve(
    engine_settings: EngineSettings, settings: HttpSettings, host: str, port: int, quiet: bool
) -> int:
    from rich.console import Console

    from halftime.http.server import STALLED_SECONDS
    from halftime.verbs.serve.engine import Engine

    _log(quiet)
    listener = listening_socket(host, port, stalled_seconds=STALLED_SECONDS)
    # One plain line on standard output, for people and for scripts that let the port be chosen.
    click.echo(f"halftime serve on {address_of(listener)} with {settings.model}")
    console = Console(stderr=True, highlight=False, quiet=quiet)
    if host not in LOOPBACK and not settings.has_keys:
        console.print(
            "Anybody who reaches this address can draw: set HALFTIME_API_KEY, or --keys.",
            style="yellow",
        )
    return run(Engine(engine_settings), settings, listener, _watcher(console))


def _serve_with_ray(
    engine_settings: EngineSettings, settings: HttpSettings, host: str, port: int, replicas: int
) -> int:
    optional("ray", "ray", "halftime serve --ray")
    from halftime.verbs.serve import ray_serve

    click.echo(f"halftime serve on http://{host}:{port} with {settings.model}, by Ray Serve")
    return ray_serve.run(engine_settings, settings, host, port, replicas)


def _log(quiet: bool) -> None:
    """A line a request; what the watcher and the first line say already is left out."""
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(asctime)s %(message)s"
    )
    for name in ("uvicorn", "halftime.verbs.serve.engine", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _watcher(console: Console) -> Callable[[DrawingEngine], Coroutine[None, None, None]]:
    """A coroutine that tells the screen how the warm-up goes, and every alarm after it."""

    async def watch(engine: DrawingEngine) -> None:
        begun = time.monotonic()
        status = await _warmed(console, engine)
        if status.certificate is not None:
            took = units.seconds(time.monotonic() - begun)
            console.print(f"ready in {took}: {_summary(status.certificate)}", style="green")
        # of a failure the warm-up has reported the alarms already
        reported = status.alarm_count if status.state == "failed" else 0
        while True:
            status = engine.status
            for alarm in new_alarms(status, reported):
                console.print(f"alarm: {alarm}", style="bold red", soft_wrap=True)
            reported = status.alarm_count
            await asyncio.sleep(_LOOK)

    return watch


def new_alarms(status: EngineStatus, reported: int) -> tuple[str, ...]:
    """The alarms after the first `reported` ones, as far as the engine still holds them."""
    new = min(status.alarm_count - reported, len(status.alarms))
    return status.alarms[len(status.alarms) - new :]


async def _warmed(console: Console, engine: DrawingEngine) -> EngineStatus:
    """The status once the engine is ready or has failed; until then one line that changes, on a
    terminal."""
    with console.status("starting") if console.is_terminal else nullcontext() as line:
        while (status := engine.status).state not in ("ready", "failed"):
            if line is not None:
                line.update(f"{status.state}: {status.why}")
            await asyncio.sleep(_LOOK)
    if status.state == "failed":
        console.print(f"failed: {status.why}", style="bold red", soft_wrap=True)
    return status


def _summary(certificate: Certificate) -> str:
    sizes = ", ".join(f"{width}x{height}" for width, height in certificate.sizes)
    steps = ", ".join(map(str, certificate.steps))
    kinds = len(certificate.entries)
    return f"{kinds} kinds of call ran {certificate.passes} times; sizes {sizes}; steps {steps}"
