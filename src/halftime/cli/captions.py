"""`halftime captions`: calibrate a router, serve it as a pass-through, collect a log."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.listening import address_of, listening_socket
from halftime.base.store import check_writable, write_json
from halftime.cli.ending import journal
from halftime.cli.options import output_options, quiet_option
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar
from halftime.records.captions import CaptionsResult, Chain, ChainResult, Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from halftime.verbs.captions.collect import CollectionPlan, LeftOut
    from halftime.verbs.captions.passthrough import PassThroughSettings, RoutedModel
    from halftime.verbs.captions.requests_file import CollectedRequest
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
_SHADOW = 0.01  # where there is a judge
# judged answers after which an error of 6 % instead of 2 % is noticed, on average
# (benchmarks/results/captions_drift.json)
DELAY_OF_TRIPLED_ERROR = 250


def _http_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or a port
        valid = False
    if not valid:
        raise click.BadParameter(
            f"{value!r} is not an http:// or https:// URL; write for example "
            "http://127.0.0.1:9001/v1."
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
    "--families",
    type=click.Choice(["auto", "passing", "recurring"]),
    default="auto",
    show_default=True,
    help="Will large families of near duplicates come again, as a fixed camera's pictures do?",
)
@click.option("--rules", metavar="FILE", help="What must never go to the small model.")
@click.option(
    "--out", metavar="FILE", help="Write the router, for `captions serve` and the LiteLLM hook."
)
@output_options
def calibrate(
    log: str,
    out: str | None,
    rules: str | None,
    output: Output,
    **values: object,
) -> int:
    """Learn a router from LOG and certify its threshold.

    LOG has a request that both models answered on each line, as JSON.

    Where each line has the answers of models between the two as well, a chain of routers is
    calibrated. Exit code 1: too few examples for the guarantee; the router then sends everything to
    the large model.
    """
    from halftime.report.captions import power_text
    from halftime.verbs.captions.calibrate import CalibrationSettings, check_log, power_of
    from halftime.verbs.captions.calibrate import calibrate as run
    from halftime.verbs.captions.chain import calibrate_chain, legs_of
    from halftime.verbs.captions.log import read_log
    from halftime.verbs.captions.rules import read_rules

    if out:
        check_writable(out)
    never_small = read_rules(rules) if rules else ()
    settings = CalibrationSettings(never_small=never_small, **values)  # type: ignore[arg-type]
    rows = read_log(log)
    check_log(rows)
    if not output.quiet and legs_of(rows) == 1:
        click.echo(power_text(power_of(rows, settings), settings.alpha), err=True)
    result: CaptionsResult | ChainResult
    written: Router | Chain
    with progress_bar(output.quiet) as progress:
        progress("calibrating", 0, 1)
        if legs_of(rows) > 1:
            result = calibrate_chain(rows, settings)
            written = result.chain
        else:
            result = run(rows, settings)
            written = result.router
    extra = [ExtraFile(out, partial(write_json, out, written))] if out else []
    emit(result, output, extra=extra)
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


_fetch_from = click.option(
    "--fetch-from",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Look at pictures by URL from this host; may be given again.",
)


def _middle_options(function: click.decorators.FC) -> click.decorators.FC:
    """A third model, of a chain."""
    for option in (
        click.option("--middle-price-out", default=0.0, type=_AMOUNT, help="As of the others."),
        click.option("--middle-price-in", default=0.0, type=_AMOUNT, help="As of the others."),
        click.option("--middle-price", default=0.0, type=_AMOUNT, help="A request."),
        click.option("--middle-key-env", metavar="NAME", help="As of the others."),
        click.option("--middle-model", metavar="NAME", help="Its name there."),
        click.option(
            "--middle",
            metavar="URL",
            callback=_http_url,
            help="A model between the two, of a chain.",
        ),
    ):
        function = option(function)
    return function


def _middle(values: dict[str, object]) -> Upstream | None:
    """The model between, where one is named. Raises BadInput where only half of it is."""
    if not (values["middle"] or values["middle_model"]):
        return None
    if not (values["middle"] and values["middle_model"]):
        raise BadInput("a model between needs both: --middle URL and --middle-model NAME.")
    return _upstream(values, "middle")


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
@_middle_options
@click.option(
    "--name", default="captions", show_default=True, help="Model name whose requests are routed."
)
@click.option(
    "--shadow",
    type=_Number(0, 1),
    help="Share of small answers that the large model answers, too, for the judge to compare "
    f"(with --judge {_SHADOW}, without it 0).",
)
@click.option(
    "--judge",
    metavar="WHAT",
    help="For a cascade, and for --shadow: 'bundled' or module:function.",
)
@click.option(
    "--on-drift",
    type=click.Choice(["warn", "large"]),
    default="warn",
    show_default=True,
    help="After an alarm: go on, or send everything to the large model.",
)
@click.option(
    "--drift-state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file in which all processes of this router share what they know of drift.",
)
@_fetch_from
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
    shadow: float | None,
    judge: str | None,
    on_drift: Literal["warn", "large"],
    drift_state: Path | None,
    fetch_from: tuple[str, ...],
    host: str,
    port: int,
    **upstreams: object,
) -> int:
    """Route chat requests for the model NAME by ROUTER.

    Everything else passes through to the large model.
    """
    from halftime.verbs.captions.extra import check_installed

    check_installed()
    from halftime.http.server import STALLED_SECONDS, Backend, run
    from halftime.verbs.captions.app import application
    from halftime.verbs.captions.judge import judge_named
    from halftime.verbs.captions.passthrough import PassThroughSettings
    from halftime.verbs.captions.routers import read_routers
    from halftime.verbs.captions.upstream import check_prices

    routers = read_routers(router)
    if any(calibrated.mode == "cascade" for calibrated in routers) and judge is None:
        raise BadInput(
            "this router is a cascade's and needs a judge at run time: --judge bundled, or "
            "--judge module:function."
        )
    if shadow and judge is None:
        raise BadInput(
            f"--shadow {shadow:g} needs a judge, since only a judge can say whether the small "
            "model's answer will do: --judge bundled, or --judge module:function."
        )
    small, large = _upstream(upstreams, "small"), _upstream(upstreams, "large")
    check_prices(small, large)
    between = _between(routers, _middle(upstreams))
    settings = PassThroughSettings(
        routers[0],
        small,
        large,
        name=name,
        shadow=_SHADOW if shadow is None else shadow,
        judge=judge_named(judge) if judge else None,
        on_drift=on_drift,
        drift_file=drift_state,
        fetch_from=fetch_from,
        between=between,
    )
    app = application(settings)
    # opened first: whoever reads the next line may connect at once
    listener = listening_socket(host, port, stalled_seconds=STALLED_SECONDS)
    mode = f"{routers[0].mode} mode" if len(routers) == 1 else f"a chain of {len(routers) + 1}"
    if all(calibrated.threshold is None for calibrated in routers):
        mode = "every request goes large: not certified"
    click.echo(f"captions on {address_of(listener)}/v1, model {name!r}, {mode}; {_watch(settings)}")
    return run(app, listener, app.state.traffic, Backend())


def _between(routers: tuple[Router, ...], middle: Upstream | None) -> tuple[RoutedModel, ...]:
    """Raises BadInput where the file has routers for other models than the command names."""
    from halftime.verbs.captions.passthrough import RoutedModel

    if len(routers) > 2:
        raise BadInput(
            f"this chain has routers for {len(routers) + 1} models, and `captions serve` takes "
            "three at most. In Python PassThroughSettings of halftime.verbs.captions.passthrough "
            "takes more."
        )
    if (len(routers) == 2) != (middle is not None):
        have = "a chain, and needs" if len(routers) == 2 else "for two models, and takes no"
        raise BadInput(f"this router's file is {have} --middle URL and --middle-model NAME.")
    return (RoutedModel(routers[1], middle, "middle"),) if middle else ()


def _watch(settings: PassThroughSettings) -> str:
    """How drift in the answers is watched."""
    if settings.judge is None or not settings.shadow:
        return "answers are not watched for drift"
    delay = DELAY_OF_TRIPLED_ERROR * (0.02 / settings.router.alpha) / settings.shadow
    return (
        f"a tripled error is noticed within about {delay:,.0f} small answers (--shadow "
        f"{settings.shadow:g})"
    )


@command.command()
@click.argument("requests", type=click.Path())
@_upstream_options
@_middle_options
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
@click.option(
    "--concurrency",
    default=4,
    type=click.IntRange(1, 256),
    show_default=True,
    help="Requests under way at once.",
)
@_fetch_from
@quiet_option
def collect(
    requests: str,
    judge: str,
    out: str,
    concurrency: int,
    fetch_from: tuple[str, ...],
    quiet: bool,
    **upstreams: object,
) -> int:
    """Send REQUESTS to both models, judge the answers, and write a log.

    REQUESTS has JSON lines with 'image' and 'prompt', or with a live request as 'body'. Lines of
    the log are written as they come; run again with the same --out, and only missing requests are
    sent. Exit code 2: the log holds none of the requests, or the run was stopped.
    """
    from halftime.verbs.captions.extra import check_installed

    check_installed()
    from halftime.verbs.captions.collect import CollectionPlan, missing_requests
    from halftime.verbs.captions.judge import judge_named
    from halftime.verbs.captions.log import logged_lines
    from halftime.verbs.captions.requests_file import read_requests

    if Path(out).resolve() == Path(requests).resolve():
        raise BadInput(
            f"--out {out} is the file of the requests itself. Name another file for the log."
        )
    check_writable(out)
    collected = read_requests(Path(requests), fetch_from)
    middle = _middle(upstreams)
    plan = CollectionPlan(
        _upstream(upstreams, "small"),
        _upstream(upstreams, "large"),
        judge_named(judge),
        judge,
        Path(requests).parent,
        Path() if out == "-" else Path(out).parent,
        between=(middle,) if middle else (),
        fetch_from=fetch_from,
    )
    missing = missing_requests(collected, logged_lines(out), plan)
    return _collect_missing(missing, len(collected), plan, out, concurrency, quiet)


def _collect_missing(
    missing: Sequence[CollectedRequest],
    total: int,
    plan: CollectionPlan,
    out: str,
    concurrency: int,
    quiet: bool,
) -> int:
    """Ask, write, and report how it ended; the exit code."""
    from halftime.verbs.captions.collect import LeftOut
    from halftime.verbs.captions.collect import collect as run
    from halftime.verbs.captions.log import add_line

    left_out: list[LeftOut] = []
    earlier = total - len(missing)
    written = earlier
    try:
        with progress_bar(quiet) as progress:
            for result in run(missing, plan, progress, concurrency):
                if isinstance(result, LeftOut):
                    left_out.append(result)
                else:
                    add_line(out, result)
                    written += 1
    except KeyboardInterrupt:
        journal().resumes = _unfinished(out, written, total, left_out).strip().rstrip(".")
        raise
    except HalftimeError as error:
        state = _unfinished(out, written, total, left_out)
        raise HalftimeError(f"{str(error).rstrip('.')}.{state}") from error
    if not written:
        raise BadInput(
            f"nothing was written to {out}: {_reasons(left_out)}. Correct this and run again."
        )
    from_earlier = f", {earlier} of them from an earlier run" if earlier else ""
    click.echo(
        f"wrote {out}: {written} of {total} requests{from_earlier}; next: halftime captions "
        f"calibrate {out}",
        err=out == "-",
    )
    if left_out:
        click.echo(f"left out {len(left_out)}: {_reasons(left_out)}.", err=True)
    return 0


def _unfinished(out: str, written: int, total: int, left_out: Sequence[LeftOut]) -> str:
    """What a run that stopped early leaves behind."""
    reasons = f" Left out: {_reasons(left_out)}." if left_out else ""
    advice = "; run the same command again to go on" if written else ""
    return f"{reasons} {out} holds {written} of {total} requests{advice}."


def _reasons(left_out: Sequence[LeftOut]) -> str:
    """Each kind with its count, the most frequent first, and its first example."""
    kinds = Counter(request.kind for request in left_out)
    first = {request.kind: request.why for request in reversed(left_out)}
    return "; ".join(
        f"{count} x {kind} ({first[kind].rstrip('.')})" for kind, count in kinds.most_common()
    )
