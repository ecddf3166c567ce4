"""`halftime plan`: parse, compute, render."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from halftime.base.units import parse_seconds
from halftime.cli.options import model_argument, output_options, parse_size
from halftime.cli.output import Output, emit

if TYPE_CHECKING:
    from halftime.verbs.forecast.scenario import ForecastSettings

NOTHING_FITS = 1


@click.command()
@model_argument
@click.option(
    "--card",
    default="24GB",
    show_default=True,
    help="A GPU of `halftime forecast gpus`, or a memory: 24GB.",
)
@click.option("--cards", type=int, default=1, show_default=True, help="How many in one machine.")
@click.option("--target", metavar="TIME", help="Seconds that one call may take: 3s, 800ms.")
@click.option(
    "--size", metavar="N|WxH", help="Pixels, for example 1024.  [default: the model's own]"
)
@click.option("--frames", type=int, help="Frames of a video.  [default: the model's own]")
@click.option("--steps", type=int, help="Denoising steps.  [default: the pipeline's own]")
@click.option("--batch", type=int, default=1, show_default=True, help="Pictures of one call.")
@click.option("--dtype", help="fp32, fp16 or bf16, of what is not quantised.")
@click.option(
    "--cfg/--no-cfg",
    "guidance",
    default=None,
    help="Classifier-free guidance.  [default: the pipeline's own]",
)
@click.option("--cache", "allow_cache", is_flag=True, help="Weigh a step cache as well.")
@click.option("--prices", metavar="TOML", help="Prices an hour, for the cost of a picture.")
@click.option(
    "--host", metavar="CLASS|TIME", help="The CPU, as in `forecast`: server, modern, desktop, 7us."
)
@click.option("--config", metavar="FOLDER", help="What a checkpoint in one file is.")
@click.option("--revision", help="Of a hub id in the cache.")
@output_options
def command(
    model: str | None,
    card: str,
    cards: int,
    target: str | None,
    allow_cache: bool,
    prices: str | None,
    host: str | None,
    config: str | None,
    revision: str | None,
    output: Output,
    **values: object,
) -> int:
    """Which precision, offload and parallelism fits a card and meets a target? No GPU, no weights.

    MODEL is what `forecast` takes: a built-in architecture, a diffusers folder (its config.json
    files are enough), a cached hub id, or nothing for the bundled model. Exits with 1 where nothing
    fits, or nothing meets the target.
    """
    from halftime.verbs.plan.run import plan

    result = plan(
        model,
        card,
        cards=cards,
        target_seconds=parse_seconds(target) if target else None,
        settings=_settings(values),
        prices=prices,
        host=host,
        allow_cache=allow_cache,
        config=config,
        revision=revision,
    )
    emit(result, output)
    return 0 if result.best and result.best[0].meets_target else NOTHING_FITS


def _settings(values: dict[str, object]) -> ForecastSettings:
    from halftime.verbs.forecast.scenario import ForecastSettings

    size = values.pop("size")
    width, height = parse_size(str(size)) if size else (None, None)
    return msgspec.convert({**values, "width": width, "height": height}, type=ForecastSettings)
