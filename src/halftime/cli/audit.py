"""`halftime audit`: parse, run on the shadow device, render, gate."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from halftime.base.errors import DoesNotApply
from halftime.base.store import read_json
from halftime.cli.options import model_argument, output_options, take_workload, workload_options
from halftime.cli.output import Output, emit
from halftime.cli.screen import progress_bar
from halftime.records.audit import Audit
from halftime.report.audit import github_annotations

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

NEW_SITE = 1
WRONG_RULE = 1


@click.command()
@model_argument
@workload_options(steps=20)
@click.option(
    "--geometry",
    type=click.Choice(["real", "tiny"]),
    default="tiny",
    show_default=True,
    help=(
        "real: MODEL's configurations alone, without weights, at full size; tiny: the pipeline "
        "as it is loaded."
    ),
)
@click.option(
    "--baseline",
    metavar="JSON",
    help="Exit with 1 where the loop waits in a place that this audit has not.",
)
@click.option(
    "--check-rules",
    is_flag=True,
    help="On a CUDA device: do the rules agree with torch's own sync mode?",
)
@click.option(
    "--generator",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where noise is drawn: on the CPU it is copied, in many schedulers in every step.",
)
@click.option("--github", is_flag=True, help="Print GitHub annotations.")
@output_options
def command(
    model: str | None,
    geometry: str,
    baseline: str | None,
    check_rules: bool,
    generator: str,
    github: bool,
    output: Output,
    **workload_values: object,
) -> int:
    """Where would CPU and GPU wait for each other, and can the loop be captured? No GPU needed.

    MODEL is a diffusers folder, a checkpoint in one file, module:function returning a pipeline, or
    nothing for the bundled model. Tiny random components do: waits do not depend on weights.
    """
    if check_rules:
        return _check_rules(output)
    base = read_json(Path(baseline), Audit) if baseline else None
    result = _audit(model, geometry, generator, workload_values, output.quiet)
    if github:
        click.echo(github_annotations(result))
    emit(result, output._replace(quiet=output.quiet or github))
    return _gate(base, result) if base else 0


def _check_rules(output: Output) -> int:
    from halftime.verbs.audit import check

    with progress_bar(output.quiet) as progress:
        progress("checking the rules", 0, 1)
        result = check.check_rules()
    emit(result, output)
    return WRONG_RULE if result.wrong else 0


def _audit(
    model: str | None,
    geometry: str,
    generator: str,
    workload_values: dict[str, object],
    quiet: bool,
) -> Audit:
    # Read when torch is imported. Nothing is timed or large here, and threads that wait for each
    # other beside other work took six times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    steps_are_chosen = any(
        workload_values.get(name) is not None for name in ("steps", "workload_file")
    )
    with progress_bar(quiet) as progress, _no_collection():
        progress("importing torch and diffusers", 0, 1)
        from halftime.pipeline.load import load
        from halftime.verbs.audit.confirm import confirmed
        from halftime.verbs.audit.ghost import load_ghost
        from halftime.verbs.audit.run import STEPS, audit_loaded, on_cpu

        workload = take_workload(workload_values, model)
        if not steps_are_chosen:
            workload = msgspec.structs.replace(workload, steps=STEPS)
        progress("loading", 0, 1)
        loaded = (
            load(model, on_cpu(workload)) if geometry == "tiny" else load_ghost(model, workload)
        )
    with progress_bar(quiet) as progress:
        audited = functools.partial(
            audit_loaded,
            loaded,
            workload,
            generator="cuda" if generator == "cuda" else "cpu",
            progress=progress,
        )
        return confirmed(audited(), lambda fix: _audit_with(fix, loaded.pipeline, audited))


def _audit_with(fix: str, pipeline: DiffusionPipeline, audited: Callable[[], Audit]) -> Audit | str:
    """The audit with a fix, or why it does not apply. Unprobed: nothing is drawn for the user."""
    from halftime.fix import applied

    try:
        with applied(pipeline, [fix], probe=False):
            return audited()
    except DoesNotApply as error:
        return str(error)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Importing and loading leave nothing to collect, and looking for it takes 0.9 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor do later collections have to look through the libraries
        gc.enable()


def _gate(base: Audit, candidate: Audit) -> int:
    from halftime.verbs.audit.compare import new_sites

    if not candidate.steps_seen:
        # No loop, no waits in it: that would pass for the wrong reason.
        click.echo(
            "no denoising loop was seen, so nothing can be said of its waits; see 'not seen'.",
            err=True,
        )
        return NEW_SITE
    sites = new_sites(base, candidate)
    for site in sites:
        site_words = f"{site.file}:{site.line} {site.kind}, {site.count} times: {site.code}"
        click.echo(f"new wait in the loop: {site_words}", err=True)
    return NEW_SITE if sites else 0
