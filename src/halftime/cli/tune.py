"""`halftime tune`: parse, tune, write the recipe, render."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import roughly
from halftime.base.store import check_writable, write_toml
from halftime.base.units import parse_seconds, parse_share
from halftime.cli.around import look_around
from halftime.cli.ending import journal
from halftime.cli.options import model_argument, output_options, take_workload, workload_options
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar
from halftime.records import Workload
from halftime.records.tune import Tuning
from halftime.report.model import Report

if TYPE_CHECKING:
    from halftime.verbs.tune.decide import Goal
    from halftime.verbs.tune.options import Options
    from halftime.verbs.tune.run import Outcome
    from halftime.verbs.tune.visible_goal import VisibleGoal

_PROMPTS = 24
EXIT_CODES = {"equivalent": 0, "different": 1, "inconclusive": 3}


@click.command()
@model_argument
@click.option(
    "--target", metavar="TIME", help="Stop when one call takes no longer, for example 2s."
)
@click.option("--speedup", type=float, metavar="N", help="Stop when a call is N times as fast.")
@click.option("--best", is_flag=True, help="Go on until nothing more pays.  [default]")
@click.option(
    "--budget", default="10m", show_default=True, help="Time for everything, verification included."
)
@click.option(
    "--allow",
    type=click.Choice(["approximate"]),
    help="Try fixes that change pictures, and other solvers.",
)
@click.option(
    "--loss",
    type=float,
    help="Mean FLIP error that approximate fixes may cost together.  [default: 0.05]",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="The fastest that takes no more of the device, for example 12GB.",
)
@click.option(
    "--visible",
    metavar="SHARE",
    help="Try them, and certify that at most so many pictures differ visibly, for example 2%.",
)
@click.option(
    "--confidence",
    metavar="SHARE",
    help="Of the certificate.  [default: 95%]",
)
@click.option(
    "--visible-by",
    metavar="METRIC=LIMIT",
    multiple=True,
    help="What differs visibly, for example flip=0.05; repeatable.  [default: a tenth of the "
    "distance between pictures of different prompts, by flip, ms_ssim and agreement]",
)
@click.option(
    "--sweep", is_flag=True, help="Only solver x steps against quality; changes pictures."
)
@click.option(
    "--prompts",
    "count",
    type=int,
    help="Pictures that are compared at the end; with --visible, of each test.  [default: 24; "
    "with --visible as many as the budget allows, up to 400]",
)
@click.option(
    "--recipe",
    "recipe_file",
    default="recipe.toml",
    show_default=True,
    help="Where to write the recipe.",
)
@click.option(
    "--artefacts/--no-artefacts",
    default=True,
    show_default=True,
    help="Keep what the recipe compiles beside it, for --artefacts of profile and serve.",
)
@click.option("--fresh", is_flag=True, help="Forget an interrupted run.")
@workload_options()
@output_options
def command(
    model: str | None,
    target: str | None,
    speedup: float | None,
    best: bool,
    budget: str,
    allow: str | None,
    loss: float | None,
    memory: str | None,
    visible: str | None,
    confidence: str | None,
    visible_by: tuple[str, ...],
    sweep: bool,
    count: int | None,
    recipe_file: str,
    artefacts: bool,
    fresh: bool,
    output: Output,
    **workload_values: object,
) -> int:
    """Which fixes reach my target with my quality? Measured in turns, verified, written to a
    recipe.

    MODEL is a diffusers folder, a checkpoint in one file, a hub id, module:function returning a
    pipeline, or nothing for the bundled model. Interrupted with Ctrl-C, the same command goes on
    where it was. Exit code: 0 the recipe is verified and a target is reached, 1 the pictures differ
    or the target is not reached or nothing could be certified, 3 the verdict is inconclusive.
    """
    look_around(output.quiet)
    begun = time.perf_counter()
    check_writable(recipe_file)
    seconds = parse_seconds(budget)
    with progress_bar(output.quiet) as progress:
        progress("importing torch and diffusers", 0, 1)
        from halftime.verbs.tune.memory import memory_of
        from halftime.verbs.tune.options import Options
        from halftime.verbs.tune.quality import LOSS
        from halftime.verbs.tune.state import partial_path
        from halftime.verbs.verify.metrics import require

    require()
    partial = partial_path(Path(recipe_file))
    options = Options(
        goal=_goal(target, speedup, best),
        budget=seconds,
        approximate=allow is not None or sweep,
        sweep_only=sweep,
        loss=LOSS if loss is None else loss,
        prompts=_PROMPTS if count is None or visible else count,
        partial=partial,
        memory=memory_of(memory),
        visible=_visible_goal(visible, confidence, visible_by, count, allow is not None or sweep),
    )
    workload = take_workload(workload_values, model)
    outcome = _tune(model, workload, options, begun, fresh, output.quiet)
    recipe = ExtraFile(recipe_file, lambda: _write_recipe(recipe_file, partial, outcome))
    emit(outcome.tuning, output, lambda: _report(outcome), [recipe])
    if artefacts:
        _save_artefacts(model, workload, recipe_file, outcome, begun + seconds, output.quiet)
    return exit_code(outcome.tuning, options.visible is not None)


def _visible_goal(
    visible: str | None,
    confidence: str | None,
    visible_by: tuple[str, ...],
    count: int | None,
    approximate: bool,
) -> VisibleGoal | None:
    from halftime.verbs.tune.visible_goal import MOST_DRAWS, VisibleGoal

    if visible is None:
        if confidence is not None or visible_by:
            raise BadInput(
                "--confidence and --visible-by say more about --visible; give that too, for "
                "example --visible 2%."
            )
        return None
    if approximate:
        raise BadInput(
            "--visible tries approximate fixes by itself, within its share instead of --loss; "
            "leave --allow and --sweep out."
        )
    return VisibleGoal(
        parse_share(visible),
        parse_share(confidence or "95%"),
        dict(map(_limit, visible_by)),
        MOST_DRAWS if count is None else count,
    )


def _limit(words: str) -> tuple[str, float]:
    """'flip=0.05' as a metric and its limit."""
    name, _, value = words.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise BadInput(
            f"--visible-by is {words!r}; it must be METRIC=LIMIT, for example flip=0.05."
        ) from None


def _write_recipe(file: str, partial: Path, outcome: Outcome) -> None:
    """The recipe; what an interrupted run would go on from is needed until it is there."""
    write_toml(file, outcome.tuning.recipe)
    partial.unlink(missing_ok=True)


def _goal(target: str | None, speedup: float | None, best: bool) -> Goal:
    from halftime.verbs.tune.decide import Goal

    if sum((target is not None, speedup is not None, best)) > 1:
        raise BadInput("--target, --speedup and --best exclude each other; give one.")
    return Goal(parse_seconds(target) if target else None, speedup)


def _tune(
    model: str | None,
    workload: Workload,
    options: Options,
    begun: float,
    fresh: bool,
    quiet: bool,
) -> Outcome:
    from halftime.pipeline.arguments import call_arguments
    from halftime.pipeline.load import load
    from halftime.upstream.pytorch import ONNX_EXPORTER_LOG
    from halftime.verbs.tune.run import tuned

    # The exporter names every operator of a package that is not installed.
    logging.getLogger(ONNX_EXPORTER_LOG).setLevel(logging.ERROR)

    if fresh and options.partial is not None:
        options.partial.unlink(missing_ok=True)
    left = options.budget - (time.perf_counter() - begun)
    with progress_bar(quiet, at_most=left) as progress:
        progress("loading", 0, 1)
        loaded = load(model, workload, on_host=options.memory is not None)
        call_arguments(loaded.pipeline, workload)  # refuse a bad workload before any long work
        try:
            return tuned(
                loaded, workload, options, progress=progress, say=progress.say, begun=begun
            )
        except KeyboardInterrupt:
            if options.partial is not None and options.partial.is_file():
                journal().resumes = (
                    f"what was measured is kept in {options.partial}, and the same command goes "
                    "on from there"
                )
            raise


def _save_artefacts(
    model: str | None, workload: Workload, file: str, outcome: Outcome, end: float, quiet: bool
) -> None:
    """Save what the recipe compiles beside it, where the budget has time for it; the recipe works
    without, so a failure is a note."""
    from halftime.fix.artefacts import compiles
    from halftime.verbs.tune.artefacts import save

    if not compiles(outcome.tuning.recipe):
        return
    recipe, left = Path(file), end - time.perf_counter()
    if outcome.artefact_seconds > left:
        click.echo(
            f"no artefacts beside {recipe}: compiling them takes about "
            f"{roughly(outcome.artefact_seconds)}, and {roughly(max(0.0, left))} of the budget are "
            f"left. halftime profile --recipe {recipe} --artefacts keeps them, too.",
            err=True,
        )
        return
    with progress_bar(quiet, at_most=left) as progress:
        progress("compiling for the artefacts", 0, 1)
        try:
            artefacts = save(model, workload, recipe)
        except HalftimeError as error:
            click.echo(f"no artefacts beside {recipe}: {error}", err=True)
            return
        if artefacts:
            progress.say(f"wrote {artefacts}")


def _report(outcome: Outcome) -> Report:
    from halftime.report.tune import report_of
    from halftime.verbs.tune.slides import slides

    tuning = outcome.tuning
    if tuning.evidence is None or outcome.baseline is None or outcome.candidate is None:
        return report_of(tuning, ())
    return report_of(tuning, slides(tuning.evidence, outcome.baseline, outcome.candidate))


def exit_code(tuning: Tuning, certify: bool = False) -> int:
    """0, 1 or 3 as the verdict says; but approximate recipes are meant to draw other pictures.
    With `certify` 1 where nothing was."""
    if certify and tuning.recipe.certificate is None:
        return 1
    approximate = any(rung.kept and rung.level == "approximate" for rung in tuning.ladder)
    if tuning.reached is False:
        return 1
    return 0 if approximate or tuning.verdict is None else EXIT_CODES[tuning.verdict]
