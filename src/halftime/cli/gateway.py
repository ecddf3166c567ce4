"""`halftime gateway`: parse, measure, render; and `halftime gateway mock`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base.errors import BadFile, BadInput, first_line
from halftime.base.progress import Progress
from halftime.base.store import read_json
from halftime.base.units import parse_seconds
from halftime.cli.ending import journal
from halftime.cli.options import output_options
from halftime.cli.output import Output, emit

if TYPE_CHECKING:
    from halftime.records.gateway import GatewayResult, Mode
    from halftime.verbs.gateway.analysis import Limits
    from halftime.verbs.gateway.plan import Tariff
    from halftime.verbs.gateway.run import GatewaySettings

_BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1_000_000, "kib": 1024, "mib": 1024**2}
_ARRIVALS: dict[str, tuple[Mode, ...]] = {
    "constant": ("constant",),
    "poisson": ("poisson",),
    "both": ("constant", "poisson"),
}


def parse_bytes(text: str) -> int:
    """'64KB', '1MiB', '512' -> bytes. Raises BadInput."""
    number = text.strip().rstrip("bBkKmMiI ")
    unit = text.strip()[len(number) :].strip().lower()
    if number.isdecimal() and unit in _BYTES and int(number) > 0:
        return int(number) * _BYTES[unit]
    raise BadInput(
        f"{text!r} is not a size. Write one byte or more as 65536, 64KB, 1MB, 64KiB or 1MiB."
    )


def parse_positive_seconds(option: str, text: str) -> float:
    """A time above zero -> seconds. Raises BadInput."""
    seconds = parse_seconds(text)
    if seconds <= 0:
        raise BadInput(f"{option} {text!r} is not above zero. Write a longer time, for example 2s.")
    return seconds


def parse_rates(text: str | None) -> tuple[float, ...]:
    """'20,100,300' -> requests a second. Raises BadInput."""
    try:
        rates = tuple(float(word) for word in (text or "").split(",") if word.strip())
    except ValueError:
        rates = (0.0,)
    if any(not 0 < rate <= 20_000 for rate in rates):
        raise BadInput(
            f"--rate {text!r} is not a list of rates. Write requests a second, for example "
            "20,100,300."
        )
    return rates


def parse_headers(lines: tuple[str, ...]) -> dict[str, str]:
    """'name: value' or 'name: $VARIABLE' -> headers, with variables from the environment.

    Raises BadInput.
    """
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip()
        if not colon or not name.strip():
            raise BadInput(f"--header {line.split(':')[0]!r} is not 'name: value'.")
        if value.startswith("$"):
            if value[1:] not in os.environ:
                raise BadInput(f"--header {name}: the environment variable {value[1:]} is not set.")
            value = os.environ[value[1:]]
        headers[name.strip()] = value
    return headers


def parse_goodput(text: str | None) -> Limits:
    """'first=500ms,gap=50ms,whole=5s' -> limits. Raises BadInput."""
    from halftime.verbs.gateway.analysis import Limits

    limits = {}
    for word in filter(None, (text or "").split(",")):
        name, sign, value = word.strip().partition("=")
        if not sign or name not in ("first", "gap", "whole"):
            raise BadInput(
                f"--goodput {word!r} is not a limit. Write first=500ms (to the first bytes), "
                "gap=50ms (between tokens) or whole=5s, with commas between them."
            )
        limits[name] = parse_positive_seconds("--goodput", value)
    return Limits(**limits)


def parse_prices(text: str | None) -> Tariff | None:
    """'0.15,0.60' dollars for a million tokens in and out, or '0.04' for a request. Raises
    BadInput."""
    from halftime.verbs.gateway.plan import Tariff

    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or any(not 0 <= number < 1e6 for number in numbers):
        raise BadInput(
            f"--price {text!r} is not a price. Write the dollars for a million tokens in and out, "
            "as 0.15,0.60, or those for one request, as 0.04."
        )
    return Tariff(*numbers) if len(numbers) == 2 else Tariff(request=numbers[0])


def read_prompts(file: str | None) -> tuple[str, ...]:
    """A prompt a line; or JSON a line, each a string or an object with a 'prompt'. Raises
    BadFile."""
    if file is None:
        return ()
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        prompts = tuple(_prompt_in(line.strip()) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise BadFile(
            f"--prompts {file}: cannot be read as prompts ({first_line(error)}). Write one a line, "
            'as it is or as JSON: {"prompt": "…"}.'
        ) from error
    if not prompts:
        raise BadFile(f"--prompts {file} holds no prompt. Write one a line.")
    return prompts


def _prompt_in(line: str) -> str:
    if line[0] not in '{"':
        return line
    value = json.loads(line)
    prompt = value["prompt"] if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise ValueError("a prompt that is not text")
    return prompt


class _GatewayGroup(click.Group):
    """A group that takes the gateway's URL without an option, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, words, _ = self.make_parser(ctx).parse_args(args=list(args))
        if words and "://" in words[0]:
            at = len(args) - len(words)
            args = [*args[:at], "--through", words[0], *args[at + 1 :]]
        return super().parse_args(ctx, args)


@click.group(
    cls=_GatewayGroup,
    invoke_without_command=True,
    subcommand_metavar="[URL] | mock",
    options_metavar="[OPTIONS]",
)
@click.option(
    "--direct",
    metavar="URL",
    help="The endpoint without the gateway, for example http://127.0.0.1:9000/v1.",
)
@click.option(
    "--through",
    metavar="URL",
    help="The same through the gateway, also without this word; one URL alone is measured by "
    "itself.",
)
@click.option("--rate", "rates", metavar="R[,R…]", help="Open loop at these requests a second.")
@click.option("--arrival", type=click.Choice(list(_ARRIVALS)), default="both", show_default=True)
@click.option(
    "--requests",
    default=200,
    type=click.IntRange(1),
    show_default=True,
    help="Sequential pairs, at most.",
)
@click.option(
    "--sequential-time", default="60s", show_default=True, help="For a slow upstream, fewer pairs."
)
@click.option(
    "--concurrency",
    default=8,
    type=click.IntRange(0),
    show_default=True,
    help="Closed loop; 0 leaves it out.",
)
@click.option("--duration", default="6s", show_default=True, help="Of each arm at each level.")
@click.option("--timeout", default="30s", show_default=True, help="Of one request.")
@click.option(
    "--payload", default="chat", show_default=True, metavar="chat|image-in|image-out|FILE"
)
@click.option(
    "--size",
    default="64KB",
    show_default=True,
    help="Of the picture sent or asked for, 64KB to 8MB.",
)
@click.option("--picture-url", metavar="URL", help="image-in: send this URL instead of base64.")
@click.option("--stream", is_flag=True, help="Ask for a streamed answer.")
@click.option(
    "--target", default="openai", show_default=True, help="openai, kserve, replicate or fal."
)
@click.option(
    "--model", help="Model name in the request.  [default: the one that the endpoint lists]"
)
@click.option("--through-model", metavar="NAME", help="Its name at the gateway, where it differs.")
@click.option("--prompts", metavar="FILE", help="Prompts to send in turn, one a line or JSON.")
@click.option(
    "--key-env",
    metavar="NAME",
    help="Environment variable that holds the key.  [default: the service's usual one]",
)
@click.option("--through-key-env", metavar="NAME", help="The gateway's own key, where it differs.")
@click.option(
    "--header", "headers", multiple=True, metavar="'N: V'", help="For both; V may be $VARIABLE."
)
@click.option(
    "--through-header",
    "through_headers",
    multiple=True,
    metavar="'N: V'",
    help="For the gateway only.",
)
@click.option(
    "--overhead-header",
    default="x-litellm-overhead-duration-ms",
    show_default=True,
    help="In milliseconds.",
)
@click.option(
    "--http2",
    type=click.Choice(["direct", "through", "both"]),
    help="Ask that way, or both, in HTTP/2 instead of HTTP/1.1.",
)
@click.option("--ca-file", metavar="PEM", help="Trust this certificate authority.")
@click.option("--insecure", is_flag=True, help="Trust any certificate.")
@click.option("--client-cert", metavar="PEM", help="Your certificate, where one is asked for.")
@click.option("--client-key", metavar="PEM", help="Its key, where that is another file.")
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    help="Send no more in all.  [default: 2000 to an upstream outside of your network]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option(
    "--price",
    metavar="IN,OUT | EACH",
    help="Dollars for a million tokens in and out, or for a request.",
)
@click.option(
    "--goodput",
    metavar="LIMITS",
    help="Count answers within first=500ms, gap=50ms (between tokens), whole=5s.",
)
@click.option("--knee", is_flag=True, help="Search for the highest rate that is held.")
@click.option(
    "--poll", default="50ms", show_default=True, help="Between questions after a job that runs."
)
@click.option(
    "--pid", type=int, help="The gateway's process.  [default: what listens on its port here]"
)
@click.option(
    "--max-background",
    type=click.FloatRange(0),
    metavar="CORES",
    help="Refuse where other processes keep more busy.",
)
@click.option(
    "--session",
    "session_file",
    metavar="JSON",
    help="A profile, to say what this is to one picture.",
)
@click.option(
    "--budget",
    metavar="TIME",
    help="Exit with 1 where more is added at p50 or a load saturates, with 3 where that is "
    "undecided.",
)
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    session_file: str | None,
    budget: str | None,
    dry_run: bool,
    price: str | None,
    output: Output,
    **values: object,
) -> int | None:
    """What does the proxy in front cost, and does it do its job? Both ways in one run, paired,
    shuffled and interleaved. Ends with 1 where the gateway did not do its job."""
    if ctx.invoked_subcommand:
        return None
    if values["through"] and not values["direct"]:  # one URL alone
        values |= {"direct": values["through"], "through": None}
    _refuse_idle(values | {"budget": budget, "session": session_file})
    from halftime.verbs.gateway.plan import plan_of, sentence
    from halftime.verbs.gateway.run import gateway

    with_verdicts = _with_verdicts(budget, session_file)
    tariff = parse_prices(price)
    settings = _settings(values, ask=not dry_run)
    plan = plan_of(settings, tariff)
    if dry_run:
        emit(plan, output)
        return 0
    if not output.quiet:
        click.echo(f"halftime gateway {sentence(plan)}.", err=True)
    with _progress(output.quiet) as progress:
        result = with_verdicts(gateway(settings, progress))
    emit(result, output)
    if output.quiet or "-" in output.files:
        # a gate that says no says why in any case
        for reason in filter(None, (result.failing, *result.broken, result.stopped)):
            click.echo(f"{reason}.", err=True)
    if result.interrupted:
        journal().resumes = "the report holds what was measured until then"
        raise KeyboardInterrupt
    return _exit_code(result)


def _exit_code(result: GatewayResult) -> int:
    """0 yes, 1 no, 2 the upstream went away, 3 undecided."""
    if result.through and not result.did_its_job:
        return 1
    if result.within_budget is False:
        return 1
    if result.stopped:
        return 2
    return 3 if result.budget is not None and result.within_budget is None else 0


_GATEWAY_HTTP2 = ("through", "both")
_GATEWAY_ONLY = ("through_key_env", "through_headers", "through_model", "budget", "session")


def _refuse_idle(values: dict[str, object]) -> None:
    """Raises BadInput for options that would change nothing."""
    for name in _GATEWAY_ONLY:
        if values[name] and not values["through"]:
            option = "--" + name.removesuffix("s" if name == "through_headers" else "").replace(
                "_", "-"
            )
            raise BadInput(
                f"{option} needs --through URL, which is not given. Name the gateway, or leave "
                f"{option} out."
            )
    if values["picture_url"] and values["payload"] != "image-in":
        raise BadInput(
            "--picture-url is sent with --payload image-in alone, and the payload is "
            f"{values['payload']!r}. Write --payload image-in, or leave --picture-url out."
        )
    if values["http2"] in _GATEWAY_HTTP2 and not values["through"]:
        raise BadInput(
            f"--http2 {values['http2']} needs --through URL, which is not given. Name the gateway, "
            "or write --http2 direct."
        )
    if values["client_key"] and not values["client_cert"]:
        raise BadInput("--client-key needs --client-cert PEM: the certificate that it belongs to.")
    if values["insecure"] and values["ca_file"]:
        raise BadInput("--insecure trusts anybody, so that --ca-file means nothing: leave one out.")
    if values["prompts"] and values["payload"] not in ("chat", "image-in", "image-out"):
        raise BadInput(
            "--prompts are sent with --payload chat, image-in or image-out, and the payload is "
            f"the file {values['payload']!r}."
        )


def _settings(values: dict[str, object], ask: bool) -> GatewaySettings:
    """The settings; `ask` the endpoint for its model where none is named."""
    from dataclasses import replace

    from halftime.verbs.gateway.discover import named_model
    from halftime.verbs.gateway.endpoint import Payload
    from halftime.verbs.gateway.plan import MOST_ABROAD, is_near
    from halftime.verbs.gateway.run import GatewaySettings

    if not values["direct"]:
        raise BadInput(
            "a URL is needed: halftime gateway URL --direct URL, where --direct is the endpoint "
            "that the gateway forwards to. Try: halftime gateway mock."
        )
    unchanged = {name: values[name] for name in _PASSED}
    most = values["max_requests"]
    if most is None and not is_near(str(values["direct"])):
        most = MOST_ABROAD
    payload = Payload(
        kind=str(values["payload"]),
        picture=parse_bytes(str(values["size"])),
        stream=bool(values["stream"]),
        url=values["picture_url"],  # type: ignore[arg-type]
        model=str(values["model"] or "mock-model"),
        prompts=read_prompts(values["prompts"]),  # type: ignore[arg-type]
    )
    rates = values["rates"]
    settings = GatewaySettings(
        payload=payload,
        rates=parse_rates(str(rates) if rates else None),
        arrivals=_ARRIVALS[str(values["arrival"])],
        seconds=parse_positive_seconds("--duration", str(values["duration"])),
        sequential_seconds=parse_seconds(str(values["sequential_time"])),
        timeout=parse_positive_seconds("--timeout", str(values["timeout"])),
        headers=parse_headers(values["headers"]),  # type: ignore[arg-type]
        through_headers=parse_headers(values["through_headers"]),  # type: ignore[arg-type]
        max_requests=most,  # type: ignore[arg-type]
        within=parse_goodput(values["goodput"]),  # type: ignore[arg-type]
        poll=parse_positive_seconds("--poll", str(values["poll"])),
        **unchanged,  # type: ignore[arg-type]
    )
    if values["model"] or not ask:
        return settings
    return replace(settings, payload=replace(payload, model=named_model(settings)))


_PASSED = (
    "direct",
    "through",
    "target",
    "requests",
    "concurrency",
    "key_env",
    "through_key_env",
    "overhead_header",
    "ca_file",
    "http2",
    "pid",
    "max_background",
    "insecure",
    "client_cert",
    "client_key",
    "through_model",
    "knee",
)


def _with_verdicts(
    budget: str | None, session_file: str | None
) -> Callable[[GatewayResult], GatewayResult]:
    """A function that adds the verdicts to a result.

    Both options are read before it is returned: a measurement takes minutes.
    """
    from halftime.records import Session
    from halftime.verbs.gateway.verdict import with_budget, with_session

    limit = parse_seconds(budget) if budget else None
    session = read_json(Path(session_file), Session) if session_file else None

    def with_verdicts(result: GatewayResult) -> GatewayResult:
        result = result if limit is None else with_budget(result, limit)
        return with_session(result, session) if session else result

    return with_verdicts


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """One line on a terminal's standard error; it is written between loads, never during one."""
    from rich.console import Console

    console = Console(stderr=True)

    def show(phase: str, finished: int, total: int) -> None:
        if console.is_terminal and not quiet:
            count = f" ({finished + 1} of {total})" if total > 1 else ""
            console.print(f"{phase}{count}", style="dim")

    yield show


@command.command("mock")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    default=9000,
    type=click.IntRange(0, 65535),
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--delay", default="20ms", show_default=True, help="To the first byte of the answer.")
@click.option("--jitter", default="0", show_default=True, help="Standard deviation of the delay.")
@click.option(
    "--size", default="512", show_default=True, help="Of the text or picture in an answer."
)
@click.option(
    "--chunks", default=8, type=click.IntRange(1), show_default=True, help="Of a streamed answer."
)
@click.option("--gap", default="10ms", show_default=True, help="Between chunks.")
@click.option(
    "--error-rate",
    default=0.0,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of requests answered with 500.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--queue",
    default="0",
    show_default=True,
    help="Above 0, predictions of replicate and fal are jobs that wait so long before --delay.",
)
def mock(
    host: str,
    port: int,
    delay: str,
    jitter: str,
    size: str,
    chunks: int,
    gap: str,
    error_rate: float,
    seed: int,
    queue: str,
) -> None:
    """An upstream with set delay, jitter, size, chunking and error rate; runs until interrupted."""
    from halftime.verbs.gateway.extra import run_async
    from halftime.verbs.gateway.mock import Behaviour, serve

    behaviour = Behaviour(
        parse_seconds(delay),
        parse_seconds(jitter),
        parse_bytes(size),
        chunks,
        parse_seconds(gap),
        error_rate,
        seed,
        parse_seconds(queue),
    )

    def announce(bound_port: int) -> None:
        click.echo(
            f"mock upstream on http://{host}:{bound_port}/v1 (openai), also kserve, replicate and "
            "fal without /v1"
        )

    run_async(serve(behaviour, host, port, announce))
