"""`halftime verify`: make or read two sets of pictures, judge them, render, exit 0, 1 or 3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from halftime.base.errors import BadInput
from halftime.base.progress import Progress
from halftime.base.store import STANDARD_OUTPUT, check_writable, write_bytes
from halftime.cli.around import look_around
from halftime.cli.options import output_options, take_workload, workload_options
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar
from halftime.records import Environment, Workload
from halftime.records.verdict import Verdict
from halftime.records.workload import SOURCE
from halftime.report.model import Report
from halftime.report.verify import report_of

if TYPE_CHECKING:
    from halftime.pipeline.load import LoadedPipeline
    from halftime.verbs.verify.pictures import PictureSet

EXIT_CODES = {"equivalent": 0, "different": 1, "inconclusive": 3}
BASELINE = "baseline"


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--model", help="The pipeline, where A or B is a recipe.  [default: the bundled model]"
)
@click.option("--prompts", "count", type=int, help="How many pictures to make.  [default: 50]")
@click.option(
    "--margin", type=float, help="Largest difference that still counts as none, in noise floors."
)
@click.option("--strict", is_flag=True, help="Find differences that no 8-bit picture shows.")
@click.option(
    "--floor",
    "floor_folders",
    multiple=True,
    metavar="DIR",
    help="A further set equal to A, for the floor.",
)
@click.option(
    "--floor-prompts",
    default=8,
    show_default=True,
    help="Pictures for each part of the noise floor.",
)
@click.option("--judge", help="A CLIP by folder or hub id.  [default: the bundled judge]")
@click.option(
    "--aesthetic-head",
    type=Path,
    metavar="FILE",
    help="Linear aesthetic head for that CLIP (safetensors).",
)
@click.option("--lpips-weights", type=Path, metavar="FILE", help="AlexNet's weights, for LPIPS.")
@click.option("--sheet", metavar="PNG", help="Write the contact sheet.")
@click.option(
    "--keep", type=Path, metavar="DIR", help="Keep the pictures that are made, in DIR/a and DIR/b."
)
@workload_options()
@output_options
def command(
    a: str,
    b: str,
    model: str | None,
    count: int | None,
    margin: float | None,
    strict: bool,
    floor_folders: tuple[str, ...],
    floor_prompts: int,
    judge: str | None,
    aesthetic_head: Path | None,
    lpips_weights: Path | None,
    sheet: str | None,
    keep: Path | None,
    output: Output,
    **workload_values: object,
) -> int:
    """Are two sets of pictures the same within noise?

    A and B are each a folder of pictures, a recipe or plan in TOML, or the word 'baseline' for the
    pipeline as it is. Exit code: 0 equivalent, 1 different, 3 inconclusive.
    """
    look_around(output.quiet)
    with progress_bar(output.quiet) as progress:
        progress("importing torch", 0, 1)
        from halftime.verbs.verify.metrics import require
        from halftime.verbs.verify.pictures import read_folder
        from halftime.verbs.verify.run import MARGIN, VerifySettings, verdict_of

    require()
    for file in (sheet, str(keep / "a" / "0.png") if keep else None):
        check_writable(file or STANDARD_OUTPUT)
    if count is not None and count < 1:
        raise BadInput(f"--prompts is {count}; it must be 1 or more.")
    workload = take_workload(workload_values, model)
    both_folders = Path(a).is_dir() and Path(b).is_dir()
    if both_folders:
        _refuse_source(model, workload)
    with progress_bar(output.quiet) as progress:
        if both_folders:
            sets = Drawn(read_folder(Path(a)), read_folder(Path(b)), {}, None)
        else:
            sets = _sets(a, b, model, workload, count, floor_prompts, progress)
        baseline, candidate, floors, environment = sets
        for number, folder in enumerate(floor_folders, 1):
            floors[f"folder {number}"] = read_folder(Path(folder))
        progress("comparing", 0, 1)
        settings = VerifySettings(
            margin=MARGIN if margin is None else margin,
            floors=floors,
            strict=strict,
            judge=judge,
            aesthetic_head=aesthetic_head,
            lpips_weights=lpips_weights,
        )
        verdict = verdict_of(baseline, candidate, settings, environment)
    extra = tuple(_own_files(verdict, baseline, candidate, keep, sheet))
    emit(verdict, output, lambda: _report(verdict, baseline, candidate), extra)
    return EXIT_CODES[verdict.verdict]


class Drawn(NamedTuple):
    """Both sets, the harmless variations of A where it was drawn here, and where that was."""

    baseline: PictureSet
    candidate: PictureSet
    floors: dict[str, PictureSet]
    environment: Environment | None


def _sets(
    a: str,
    b: str,
    model: str | None,
    workload: Workload,
    count: int | None,
    floor_prompts: int,
    progress: Progress,
) -> Drawn:
    """Both sets, at least one of them drawn here."""
    from halftime.pipeline.device import device_of, this_environment
    from halftime.pipeline.load import load
    from halftime.verbs.verify.pictures import read_folder
    from halftime.verbs.verify.render import floor_sets, prompt_set, render

    for source in (a, b):
        _refuse_early(source)
    progress("loading", 0, 1)
    loaded = load(model, workload)
    environment = this_environment(str(device_of(loaded.pipeline)))
    prompts = prompt_set(workload, count)

    def pictures(source: str) -> PictureSet:
        if Path(source).is_dir():
            return read_folder(Path(source))
        return render(loaded.pipeline, workload, prompts, source, progress=progress)

    with _configured(loaded, a):
        baseline = pictures(a)
        floors = (
            {}
            if Path(a).is_dir()
            else floor_sets(
                loaded.pipeline, workload, prompts[: max(1, floor_prompts)], progress=progress
            )
        )
    with _configured(loaded, b):
        return Drawn(baseline, pictures(b), floors, environment)


def _refuse_source(model: str | None, workload: Workload) -> None:
    """Raises BadInput for what says how a model is loaded, where none is."""
    values = {"model": model, **{name: getattr(workload, name) for name in SOURCE}}
    options = [f"--{name.replace('_', '-')}" for name, value in values.items() if value]
    if options:
        raise BadInput(
            f"A and B are folders of pictures, so no model is loaded: leave {', '.join(options)} "
            "out."
        )


def _refuse_early(source: str) -> None:
    """A plan with an unknown fix is refused before pictures are drawn for minutes."""
    from halftime.fix.apply import choose, read_plan

    if source == BASELINE or Path(source).is_dir():
        return
    if not Path(source).is_file():
        raise BadInput(
            f"{source!r} is neither a folder of pictures, nor a recipe's TOML file, nor "
            f"'{BASELINE}'."
        )
    choose(read_plan(Path(source)))


def _configured(loaded: LoadedPipeline, source: str) -> AbstractContextManager[object]:
    if source == BASELINE or Path(source).is_dir():
        return nullcontext()
    from halftime.fix import applied

    return applied(loaded.pipeline, Path(source), probe=False)


def _own_files(
    verdict: Verdict,
    baseline: PictureSet,
    candidate: PictureSet,
    keep: Path | None,
    sheet: str | None,
) -> Iterator[ExtraFile]:
    from halftime.verbs.verify.pictures import write_folder

    if keep:
        for folder, pictures in ((keep / "a", baseline), (keep / "b", candidate)):
            yield ExtraFile(str(folder), partial(write_folder, folder, pictures))
    if sheet:
        yield ExtraFile(sheet, lambda: write_bytes(sheet, _sheet(verdict, baseline, candidate)))


def _sheet(verdict: Verdict, baseline: PictureSet, candidate: PictureSet) -> bytes:
    from halftime.verbs.verify.sheet import contact_sheet, png

    return png(contact_sheet(verdict, baseline, candidate))


def _report(verdict: Verdict, baseline: PictureSet, candidate: PictureSet) -> Report:
    sheet = _sheet(verdict, baseline, candidate) if verdict.worst_pairs else None
    return report_of(verdict, sheet)
