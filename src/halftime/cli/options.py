"""Options that several verbs share, and the one way from options to a Workload."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import click

from halftime import bundled
from halftime.base.errors import BadInput, BadWorkload
from halftime.base.store import check_writable
from halftime.cli.output import Output
from halftime.pipeline.workload import change, read
from halftime.records import Workload
from halftime.records.workload import SOURCE

F = TypeVar("F", bound=Callable[..., object])

model_argument = click.argument("model", required=False)

_FIRST_WORKLOAD_OPTIONS = (
    click.option(
        "--workload", "workload_file", metavar="TOML", help="Read the workload from a TOML file."
    ),
    click.option("--prompt", "prompts", multiple=True, help="Prompt; may be given several times."),
    click.option("--negative-prompt", help="Negative prompt."),
)
_MORE_WORKLOAD_OPTIONS = (
    click.option("--guidance", type=float, help="Guidance scale.  [default: the pipeline's own]"),
    click.option(
        "--size",
        metavar="N|WxH",
        help="Pixels, for example 1024 or 1152x896.  [default: the pipeline's own]",
    ),
    click.option(
        "--batch", "images_per_prompt", type=int, help="Pictures for each prompt.  [default: 1]"
    ),
    click.option("--seed", type=int, help="Seed of the first picture.  [default: 0]"),
    click.option(
        "--scheduler",
        help="A diffusers scheduler by class name, for example DPMSolverMultistepScheduler.",
    ),
    click.option(
        "--dtype",
        help="float32, bfloat16 or float16, from loading on.  [default: as loaded]",
    ),
    click.option(
        "--device",
        help="cpu, cuda, cuda:N, xpu or mps.  [default: the best here; a function's own]",
    ),
    click.option(
        "--set",
        "arguments",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other argument of the call; VALUE @FILE is a picture, film or tensor in a file.",
    ),
)
_PICTURE_OPTIONS = (
    click.option(
        "--image",
        "image",
        multiple=True,
        metavar="FILE",
        help="A picture that goes in; several where the call takes several.",
    ),
    click.option("--mask", metavar="FILE", help="Where to paint, in white."),
    click.option(
        "--control-image",
        "control_image",
        multiple=True,
        metavar="FILE",
        help="The picture of a ControlNet; one for each.",
    ),
    click.option(
        "--video", metavar="FILE", help="A film that goes in, or the folder of its frames."
    ),
)
_SOURCE_OPTIONS = (
    click.option(
        "--lora",
        "lora",
        multiple=True,
        metavar="FILE[:WEIGHT]",
        help="Load a LoRA on top; may be given several times.",
    ),
    click.option("--variant", help="Of the weights' files, for example fp16."),
    click.option("--revision", help="Branch, tag or commit of a hub id."),
    click.option(
        "--config", metavar="FOLDER", help="What a checkpoint in one file is: a pipeline's folder."
    ),
    click.option(
        "--custom-pipeline",
        metavar="FILE|NAME",
        help="A pipeline's code, for diffusers to run. Only code that you trust.",
    ),
)

# `--json` alone, at the end or before another option, is `--json -`.
json_option = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    is_flag=False,
    flag_value="-",
    help="Write JSON; - or no FILE for standard output.",
)
html_option = click.option(
    "--html", "html_file", metavar="FILE", help="Write one self-contained HTML page."
)
markdown_option = click.option(
    "--markdown", "markdown_file", metavar="FILE", help="Write markdown; - for standard output."
)
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="No progress and no tables; files and exit code only."
)

_BESIDE = ""  # --artefacts without a name
artefacts_option = click.option(
    "--artefacts",
    metavar="FILE",
    is_flag=False,
    flag_value=_BESIDE,
    help="Take compiled code from FILE and keep it there; no FILE is the one beside the recipe. "
    "It is code that runs: only your own.",
)


def take_artefacts(value: str | None, recipe: str | None, quiet: bool = False) -> str | None:
    """The file that --artefacts means, or None; names one that lies beside the recipe unused.

    Raises BadInput for --artefacts without --recipe.
    """
    if recipe is None:
        if value is not None:
            raise BadInput(
                "--artefacts keeps what a recipe compiles; name the recipe with --recipe."
            )
        return None
    from halftime.fix.artefacts import beside

    file = beside(recipe)
    if value is None and file.is_file() and not quiet:
        click.echo(
            f"{file} lies beside the recipe; --artefacts takes compiled code from it.", err=True
        )
    return str(file) if value == _BESIDE else value


def output_options(function: F) -> F:
    """Add --json, --html, --markdown and --quiet; their values arrive together, as `output`."""
    return _output(function, json_option, html_option, markdown_option, quiet_option)


def json_output(function: F) -> F:
    """Add --json and --quiet alone, for what needs no page; their values arrive as `output`."""
    return _output(function, json_option, quiet_option)


def _output(function: F, *options: Callable[[F], F]) -> F:
    @functools.wraps(function)
    def with_output(*args: object, **values: object) -> object:
        output = Output(**{name: values.pop(name) for name in Output._fields if name in values})  # type: ignore[arg-type]
        for file in output.files:
            check_writable(file)
        return function(*args, output=output, **values)

    command = cast(F, with_output)
    for option in reversed(options):
        command = option(command)
    return command


def workload_options(steps: int = 30) -> Callable[[F], F]:
    """Add the options of a workload, which arrive as keyword arguments; `steps` is the default."""

    def decorated(function: F) -> F:
        steps_option = click.option(
            "--steps", type=int, help=f"Denoising steps.  [default: {steps}]"
        )
        options = (
            *_FIRST_WORKLOAD_OPTIONS,
            *_PICTURE_OPTIONS,
            steps_option,
            *_MORE_WORKLOAD_OPTIONS,
            *_SOURCE_OPTIONS,
        )
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


def source_options(function: F) -> F:
    """Add the options of how a model is loaded alone, for a verb without a workload's own."""
    for option in reversed(_SOURCE_OPTIONS):
        function = option(function)
    return function


_WORKLOAD_NAMES = (
    "prompts",
    "negative_prompt",
    "steps",
    "guidance",
    "size",
    "images_per_prompt",
    "seed",
    "scheduler",
    "dtype",
    "device",
    "arguments",
    "image",
    "mask",
    "control_image",
    "video",
    *SOURCE,
)


def take_workload(values: dict[str, object], model: str | None) -> Workload:
    """Take the workload's options out of `values`: the TOML file first, then the command line.

    The bundled model (no `model`) gets its own guidance where none is set.
    """
    file = values.pop("workload_file", None)
    options = {name: values.pop(name, None) for name in _WORKLOAD_NAMES}
    changes = {name: value for name, value in options.items() if value not in (None, ())}
    if "size" in changes:
        changes["width"], changes["height"] = parse_size(str(changes.pop("size")))
    if "arguments" in changes:
        assignments = cast("tuple[str, ...]", changes["arguments"])
        changes["arguments"] = dict(map(_assignment, assignments))
    workload = read(Path(str(file)) if file else None)
    if model is None and workload.guidance is None:
        changes.setdefault("guidance", bundled.GUIDANCE)
    return change(workload, changes)


def parse_size(text: str) -> tuple[int, int]:
    """'1024' or '1152x896' -> (width, height) in pixels. Raises BadWorkload."""
    words = text.lower().replace("×", "x").split("x")
    if len(words) in (1, 2) and all(word.strip().isdecimal() for word in words):
        numbers = [int(word) for word in words]
        return numbers[0], numbers[-1]
    raise BadWorkload(
        f"--size {text!r} is not a size. Write pixels as 1024 or as WIDTHxHEIGHT, for example "
        "1152x896."
    )


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise BadWorkload(f"--set {text!r} is not NAME=VALUE, for example --set num_frames=16.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
