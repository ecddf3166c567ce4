"""`halftime forecast`: parse, compute, render."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from halftime.base.store import check_writable, write_json
from halftime.base.units import parse_seconds
from halftime.cli.options import (
    json_output,
    model_argument,
    output_options,
    parse_size,
    source_options,
)
from halftime.cli.output import ExtraFile, Output, emit
from halftime.report.forecast import calibration_report_of

if TYPE_CHECKING:
    from halftime.verbs.forecast.scenario import ForecastSettings


class _ModelOrCommand(click.Group):
    """`forecast MODEL …`; a few words in MODEL's place are commands themselves."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "", self.commands["run"], args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Without any word, forecast the bundled model.
        return super().parse_args(ctx, args or ["run"])


@click.group(
    cls=_ModelOrCommand,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def command() -> None:
    """What would each stage take on a named GPU, and what would each fix save?"""


@command.command(
    "run",
    epilog=(
        "Also: forecast evaluate ROWS.csv, forecast calibrate SESSION.json, forecast gpus, "
        "forecast models."
    ),
)
@model_argument
@click.option("--gpu", default="A10G", show_default=True, help="A GPU of `halftime forecast gpus`.")
@click.option(
    "--size",
    metavar="N|WxH",
    help="Pixels, for example 1024 or 1152x896.  [default: the model's own]",
)
@click.option("--frames", type=int, help="Frames of a video.  [default: the model's own]")
@click.option("--steps", type=int, help="Denoising steps.  [default: the pipeline's own]")
@click.option("--batch", type=int, default=1, show_default=True, help="Pictures of one call.")
@click.option(
    "--dtype",
    help="fp32, tf32, fp16, bf16, int8, fp8, fp4, int8-weights, fp8-weights or nf4.  "
    "[default: as published]",
)
@click.option(
    "--vae-dtype",
    help="The VAE's own dtype.  [default: the pipeline's: SDXL in fp16 decodes in fp32]",
)
@click.option(
    "--cfg/--no-cfg",
    "guidance",
    default=None,
    help="Classifier-free guidance.  [default: the pipeline's own]",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="torch.compile of denoiser and VAE, with CUDA graphs.",
)
@click.option(
    "--host",
    metavar="CLASS|TIME",
    help="The CPU: server, modern or desktop, or the microseconds of one eager operation on it, "
    "for example 7us.  [default: what usually stands beside the GPU, within a wide band]",
)
@click.option("--channels-last", is_flag=True, help="Denoiser and VAE in channels_last.")
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "math"]),
    default="sdpa",
    show_default=True,
    help="Fused, or written out.",
)
@click.option("--tiled", is_flag=True, help="Tiled VAE decode.")
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="STAGE=TIME",
    help="Judge a number: --claim denoise=2700ms.",
)
@click.option(
    "--prices", metavar="TOML", help="Prices an hour: find the cheapest GPU for a picture."
)
@click.option(
    "--target",
    metavar="TIME",
    help="Latency that a GPU of the price list must reach, for example 2s.",
)
@click.option(
    "--calibration",
    metavar="JSON",
    help="A calibration; 'none' ignores the saved one.  [default: the saved one]",
)
@source_options
@output_options
def run(
    model: str | None,
    gpu: str,
    claims: tuple[str, ...],
    prices: str | None,
    target: str | None,
    calibration: str | None,
    host: str | None,
    config: str | None,
    revision: str | None,
    lora: tuple[str, ...],
    variant: str | None,
    custom_pipeline: str | None,
    output: Output,
    **values: object,
) -> int:
    """What would each stage take on a named GPU, and what would each fix save? No GPU, no weights.

    MODEL is a built-in architecture (sdxl, sd15, flux-dev, …: see `forecast models`), a diffusers
    folder (its config.json files are enough), a cached hub id, or nothing for the bundled model.
    """
    from halftime.verbs.forecast.run import forecast

    result = forecast(
        model,
        gpu,
        settings=_settings(values),
        claims=claims,
        prices=prices,
        target_seconds=parse_seconds(target) if target else None,
        calibration=calibration,
        host=host,
        config=config,
        revision=revision,
    )
    result = msgspec.structs.replace(
        result, notes=(*result.notes, *_unread(lora, variant, custom_pipeline))
    )
    emit(result, output)
    return 1 if any(claim.verdict == "impossible" for claim in result.claims) else 0


def _unread(
    lora: tuple[str, ...], variant: str | None, custom_pipeline: str | None
) -> Iterator[str]:
    """What loading takes and a forecast, which reads no weights and runs no code, does not."""
    if lora:
        yield "LoRA is forecast as fused into the weights, where it costs nothing"
    if variant:
        yield "the variant of the weights' files says nothing here: --dtype does"
    if custom_pipeline:
        yield "the pipeline's own code is not read: the loop is forecast as diffusers writes it"


def _settings(values: dict[str, object]) -> ForecastSettings:
    from halftime.verbs.forecast.scenario import ForecastSettings

    size = values.pop("size")
    width, height = parse_size(str(size)) if size else (None, None)
    return msgspec.convert({**values, "width": width, "height": height}, type=ForecastSettings)


@command.command("evaluate")
@click.argument("rows")
@click.option(
    "--calibrate",
    type=click.Choice(["none", "one-per-gpu"]),
    default="none",
    show_default=True,
    help="one-per-gpu: the first row of each GPU only calibrates.",
)
@output_options
def evaluate_rows(rows: str, calibrate: str, output: Output) -> None:
    """Compare forecasts with measured rows of a CSV file (see docs/forecast.md for its form)."""
    from halftime.verbs.forecast.evaluate import evaluate

    emit(evaluate(rows, "one-per-gpu" if calibrate == "one-per-gpu" else "none"), output)


@command.command("calibrate")
@click.argument("session")
@click.option("--model", help="The model, where the session's own name does not say.")
@click.option("--gpu", help="The GPU, where the session does not say.")
@click.option("--dtype", help="The dtype, where the session does not say.")
@click.option(
    "--output",
    "-o",
    "output_file",
    metavar="FILE",
    help="Where to write.  [default: the user's data folder, used by later forecasts]",
)
@json_output
def calibrate_from(
    session: str,
    model: str | None,
    gpu: str | None,
    dtype: str | None,
    output_file: str | None,
    output: Output,
) -> None:
    """Learn a machine's factors from one measured session (of `profile` or `trace`)."""
    from halftime.verbs.forecast.saved import saved_path
    from halftime.verbs.forecast.session import calibrate

    if output_file:
        check_writable(output_file)
    calibration = calibrate(session, model=model, gpu=gpu, dtype=dtype)
    path = output_file or str(saved_path(calibration.gpu))
    extra = [ExtraFile(path, lambda: write_json(path, calibration))]
    emit(calibration, output, lambda: calibration_report_of(calibration, path), extra)


@command.command("gpus")
@json_output
def gpus(output: Output) -> None:
    """List the GPUs of the table, with the source of every value."""
    from halftime.verbs.forecast.catalogue import gpu_list

    emit(gpu_list(), output)


@command.command("models")
@json_output
def models(output: Output) -> None:
    """List the built-in pipelines and networks."""
    from halftime.verbs.forecast.catalogue import model_list

    emit(model_list(), output)
