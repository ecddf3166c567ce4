"""`halftime captions`: calibrate a router, serve it as a pass-through, collect a log."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.store import check_writable
from halftime.cli import EXIT_INTERRUPTED
from halftime.cli.options import output_options, quiet_option
from halftime.cli.output import Output, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halftime.verbs.captions.asgi import Judge
    from halftime.verbs.captions.collect import LeftOut, Request, Work
    from halftime.verbs.captions.upstream import Upstream


class _Number(click.FloatRange):
    """A float within its bounds; nan is within none."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]
        if not math.isfinite(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


_AMOUNT = _Number(min=0)


def _http_url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or a port
        fine = False
    if not fine:
        raise click.BadParameter(
            f"{value!r} is no http:// or https:// URL; for example http://127.0.0.1:9001/v1."
        )
    return value


@click.group()
def command() -> None:
    """Which caption requests need the large model? A router with a certified error."""


@command.command()
@click.argument("log", type=click.Path())
@click.option(
    "--alpha", default=0.02, show_default=True, help="Most small answers that may be unacceptable."
)
@click.option(
    "--delta", default=0.05, show_default=True, help="The chance that this does not hold."
)
@click.option(
    "--tolerance", default=0.0, show_default=True, help="Loss of quality that is still acceptable."
)
@click.option(
    "--mode", type=click.Choice(["auto", "route", "cascade"]), default="auto", show_default=True
)
@click.option(
    "--router-cost",
    default=0.0,
    type=_AMOUNT,
    show_default=True,
    help="Of one decision, in the log's currency.",
)
@click.option(
    "--router-seconds", default=0.0, type=_AMOUNT, show_default=True, help="Of one decision."
)
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the splits.")
@click.option(
    "--out", metavar="FILE", help="Write the router, for `captions serve` and the LiteLLM hook."
)
@output_options
def calibrate(
    log: str,
    out: str | None,
    output: Output,
    **values: object,
) -> int:
    """Learn a router from LOG, JSON lines of requests that both models answered, and certify its
    threshold.

    Exit code 1: too few examples for the guarantee; the router then sends everything to the large
    model.
    """
    from halftime.base.store import write_json
    from halftime.verbs.captions.calibrate import Settings
    from halftime.verbs.captions.calibrate import calibrate as run
    from halftime.verbs.captions.log import read_log

    result = run(read_log(log), Settings(**values))  # type: ignore[arg-type]
    if out:
        write_json(out, result.router)

    emit(result, output)
    return 0 if result.certified else 1


def _upstream_options(function: click.decorators.FC) -> click.decorators.FC:
    for name in ("large", "small"):
        for option in (
            click.option(
                f"--{name}-price-out", default=0.0, type=_AMOUNT, help="A million tokens of answer."
            ),
            click.option(
                f"--{name}-price-in", default=0.0, type=_AMOUNT, help="A million tokens of request."
            ),
            click.option(f"--{name}-price", default=0.0, type=_AMOUNT, help="A request."),
            click.option(
                f"--{name}-key-env", metavar="NAME", help="Environment variable that holds its key."
            ),
            click.option(
                f"--{name}-model",
                required=True,
                metavar="NAME",
                help=f"The {name} model's name there.",
            ),
            click.option(
                f"--{name}",
                required=True,
                metavar="URL",
                callback=_http_url,
                help=f"Where the {name} model is, with /v1.",
            ),
        ):
            function = option(function)
    return function


def _upstream(values: dict[str, object], name: str) -> Upstream:
    from halftime.verbs.captions.upstream import Upstream, key_from

    variable = values[f"{name}_key_env"]
    prices = [values[f"{name}_price{suffix}"] for suffix in ("", "_in", "_out")]
    return Upstream(
        str(values[f"{name}_model"]),
        str(values[name]).rstrip("/"),
        key_from(str(variable) if variable else None),
        *(float(str(price)) for price in prices),
    )


@command.command()
@click.argument("router", type=click.Path())
@_upstream_options
@click.option(
    "--name", default="captions", show_default=True, help="Model name whose requests are routed."
)
@click.option(
    "--shadow",
    default=0.01,
    type=_Number(0, 1),
    show_default=True,
    help="Share of small answers that the large model checks.",
)
@click.option("--judge", metavar="WHAT", help="For a cascade: 'bundled' or module:function.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    default=8800,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="0 takes a free one.",
)
def serve(
    router: str,
    name: str,
    shadow: float,
    judge: str | None,
    host: str,
    port: int,
    **upstreams: object,
) -> None:
    """Route chat requests for the model NAME by ROUTER; everything else passes through to the large
    model."""
    from halftime.base.extras import optional
    from halftime.base.listening import address_of, listening_socket
    from halftime.base.store import read_json
    from halftime.records.captions import Router
    from halftime.verbs.captions.asgi import Shell, ShellSettings

    calibrated = read_json(Path(router), Router)
    if calibrated.mode == "cascade" and judge is None:
        raise BadInput(
            "this router is a cascade's and needs a judge at run time: --judge bundled, or "
            "module:function."
        )
    settings = ShellSettings(
        calibrated,
        _upstream(upstreams, "small"),
        _upstream(upstreams, "large"),
        name=name,
        shadow=shadow,
        judge=judge_named(judge) if judge else None,
    )
    uvicorn = optional("uvicorn", "captions", "halftime captions serve")
    server = uvicorn.Server(uvicorn.Config(Shell(settings), log_level="warning", access_log=False))
    taken = listening_socket(host, port)  # who reads the next line may connect at once
    routed = (
        "every request goes large: not certified"
        if calibrated.threshold is None
        else f"{calibrated.mode} mode"
    )
    click.echo(f"captions on {address_of(taken)}/v1, model {name!r}, {routed}")
    server.run(sockets=[taken])


@command.command()
@click.argument("requests", type=click.Path())
@_upstream_options
@click.option(
    "--judge",
    required=True,
    metavar="WHAT",
    help="'bundled' or module:function (picture, prompt, answer).",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="The log, JSON lines; what it holds already is kept.",
)
@quiet_option
def collect(requests: str, judge: str, out: str, quiet: bool, **upstreams: object) -> int:
    """Send REQUESTS (JSON lines with 'image' and 'prompt') to both models, judge the answers, and
    write a log.

    Lines are written as they come; run again with the same --out, and only what is missing is
    asked. Exit code 2: the log holds none of the requests, or the run was stopped.
    """
    from halftime.verbs.captions.collect import Work, read_requests, still_to_ask
    from halftime.verbs.captions.log import lines_there

    if Path(out).resolve() == Path(requests).resolve():
        raise BadInput(
            f"--out {out} is the file of the requests itself. Name another file for the log."
        )
    check_writable(out)
    asked, folder = read_requests(Path(requests)), Path(requests).parent
    work = Work(
        _upstream(upstreams, "small"),
        _upstream(upstreams, "large"),
        judge_named(judge),
        judge,
        folder,
        Path() if out == "-" else Path(out).parent,
    )
    left = still_to_ask(asked, lines_there(out), work)
    return _collected(asked, left, work, out, quiet)


def _collected(
    asked: Sequence[Request], left: Sequence[Request], work: Work, out: str, quiet: bool
) -> int:
    """Ask, write, and say how it ended; the exit code."""
    from halftime.cli.output import progress_bar
    from halftime.verbs.captions.collect import LeftOut
    from halftime.verbs.captions.collect import collect as run
    from halftime.verbs.captions.log import add_line

    left_out: list[LeftOut] = []
    there = len(asked) - len(left)
    written = there
    try:
        with progress_bar(quiet) as progress:
            for done in run(left, work, progress):
                if isinstance(done, LeftOut):
                    left_out.append(done)
                else:
                    add_line(out, done)
                    written += 1
    except KeyboardInterrupt:
        click.echo(f"halftime: interrupted.{_kept(out, written, len(asked), left_out)}", err=True)
        return EXIT_INTERRUPTED
    except HalftimeError as error:
        raise HalftimeError(
            f"{str(error).rstrip('.')}.{_kept(out, written, len(asked), left_out)}"
        ) from error
    if not written:
        raise BadInput(
            f"nothing was written to {out}: {_reasons(left_out)}. Mend this and run again."
        )
    before = f", {there} of them from before" if there else ""
    said = (
        f"wrote {out}: {written} of {len(asked)} requests{before}; next: halftime captions "
        f"calibrate {out}"
    )
    click.echo(said, err=out == "-")
    if left_out:
        click.echo(f"left out {len(left_out)}: {_reasons(left_out)}.", err=True)
    return 0


def _kept(out: str, written: int, asked: int, left_out: Sequence[LeftOut]) -> str:
    """What a run that did not come to its end leaves behind."""
    reasons = f" Left out: {_reasons(left_out)}." if left_out else ""
    again = "; run the same again to go on" if written else ""
    return f"{reasons} {out} holds {written} of {asked} requests{again}."


def _reasons(left_out: Sequence[LeftOut]) -> str:
    """Each kind with its number, the most frequent first, and the first of its like."""
    kinds = Counter(one.kind for one in left_out)
    first = {one.kind: one.why for one in reversed(left_out)}
    return "; ".join(
        f"{count} x {kind} ({first[kind].rstrip('.')})" for kind, count in kinds.most_common()
    )


def judge_named(name: str) -> Judge:
    """'bundled', or module:function taking a picture's bytes, the prompt and an answer. Raises
    BadInput."""
    if name == "bundled":
        return _bundled_judge()
    import importlib
    import sys

    module, colon, function = name.partition(":")
    if not colon:
        raise BadInput(f"--judge {name!r} is neither 'bundled' nor module:function.")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` would find it
    try:
        found: Judge = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--judge {name!r} cannot be loaded: {error}.") from error
    return found


def _bundled_judge() -> Judge:
    import io

    from PIL import Image

    from halftime import bundled

    inner = bundled.load_judge()

    def judge(picture: bytes, prompt: str, answer: str) -> float:
        return float(inner.scores([Image.open(io.BytesIO(picture)).convert("RGB")], [answer])[0])

    return judge
