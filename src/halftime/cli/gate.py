"""`halftime gate`: find both sides, measure them in turns, render, exit 0, 1 or 3."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halftime.base.errors import BadInput
from halftime.base.lines import append_lines, check_grows
from halftime.base.store import check_writable, read_report, write_bytes
from halftime.base.units import parse_seconds, parse_share
from halftime.cli.around import look_around
from halftime.cli.options import model_argument, output_options, take_workload, workload_options
from halftime.cli.output import ExtraFile, Output, emit
from halftime.cli.screen import progress_bar
from halftime.records.base import content_hash
from halftime.records.gate import ACCEPTED_FILE, Gate
from halftime.report.gate import github_annotations, junit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from halftime.base.progress import Progress
    from halftime.records.gate import Acceptance
    from halftime.verbs.gate.run import GateSettings
    from halftime.verbs.gate.sides import Side

EXIT_CODES = {"pass": 0, "faster": 0, "accepted": 0, "slower": 1, "worse": 1, "undecided": 3}


class _GateCommand(click.Command):
    """A gate, or `halftime gate accept`, which measures nothing."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args[:1] == [accept_command.name]:
            return accept_command.make_context(f"{info_name} accept", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("accept")
@click.argument("subjects", metavar="[WHAT[=AT_MOST]]...", nargs=-1)
@click.option("--reason", required=True, help="Why this may be worse; it stands in each verdict.")
@click.option(
    "--from", "gate_file", metavar="FILE", help="All that this gate's --json objects to, as much."
)
@click.option("--model", default="", help="The only model that it is about.  [default: all]")
@click.option(
    "--against",
    default="",
    metavar="BASE",
    help="The base that it is about, if that is no revision.",
)
@click.option(
    "--accepted",
    "file",
    default=ACCEPTED_FILE,
    show_default=True,
    metavar="FILE",
    help="Where the lines are kept; commit it.",
)
def accept_command(
    subjects: tuple[str, ...],
    reason: str,
    gate_file: str | None,
    model: str,
    against: str,
    file: str,
) -> int:
    """Accept on purpose that something is worse: add a line to a file that is committed.

    WHAT is speed=8%, a stage as vae_decode=8% (a call may be so much slower by that stage alone),
    waits=2, memory=10%, another counter, or pictures. A line counts until the base has it, too.
    """
    from halftime.verbs.gate.accept import accept, amount_words, objections_of

    check_grows(file, "--accepted")
    if bool(subjects) is bool(gate_file):
        raise BadInput("say what is accepted, as speed=8%, or --from a gate's JSON; one of both.")
    if gate_file:
        lines = objections_of(read_report(gate_file, Gate), reason)
    else:
        lines = tuple(accept(text, reason, model=model, against=against) for text in subjects)
    append_lines(file, lines)
    for line in lines:
        click.echo(f"{file}: {line.what}, {amount_words(line)}: {line.reason}")
    return 0


@click.command(cls=_GateCommand)
@model_argument
@click.option(
    "--against",
    required=True,
    metavar="BASE",
    help="A git revision, an environment's folder, a recipe (.toml), requirements "
    "('diffusers==0.41.*' or a .txt), or 'baseline'.",
)
@click.option(
    "--recipe",
    metavar="TOML",
    help="With the fixes of a recipe or plan; another version of the same gets them, too.",
)
@click.option(
    "--budget", default="5m", show_default=True, help="Time for everything, pictures included."
)
@click.option(
    "--slower",
    default="3%",
    show_default=True,
    metavar="SHARE",
    help="From where on slower counts: pass means shown to be less so.",
)
@click.option(
    "--alpha",
    default="1%",
    show_default=True,
    metavar="SHARE",
    help="How often a verdict on speed may be wrong, whenever the run ends.",
)
@click.option(
    "--processes",
    default=3,
    show_default=True,
    help="Of either side, alive at once; 1 where memory is short.",
)
@click.option(
    "--pictures",
    default=12,
    show_default=True,
    help="Pictures of either side that are compared; 0 for none.",
)
@click.option("--exact", is_flag=True, help="No timing: counters and pictures alone.")
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="COUNTER",
    help="A counter that may rise, for example 'compiled graphs'.",
)
@click.option(
    "--bisect",
    "bisecting",
    is_flag=True,
    help="Find the first bad commit after BASE, or release in a range as 'diffusers>=0.38'.",
)
@click.option(
    "--bisect-state",
    default="halftime-bisect.json",
    show_default=True,
    metavar="FILE",
    help="Where --bisect keeps its answers, to go on from them.",
)
@click.option(
    "--accepted",
    "accepted_file",
    metavar="FILE",
    help=f"What may be worse, line by line.  [default: {ACCEPTED_FILE}, where it exists]",
)
@click.option(
    "--history",
    "history_file",
    metavar="FILE",
    help="Add a line for this verdict (.jsonl), and draw those before in the report.",
)
@click.option("--junit", "junit_file", metavar="FILE", help="Write JUnit XML.")
@click.option("--github", is_flag=True, help="Print GitHub annotations.")
@workload_options()
@output_options
def command(
    model: str | None,
    against: str,
    recipe: str | None,
    budget: str,
    slower: str,
    alpha: str,
    processes: int,
    pictures: int,
    exact: bool,
    allowed: tuple[str, ...],
    bisecting: bool,
    bisect_state: str,
    accepted_file: str | None,
    history_file: str | None,
    junit_file: str | None,
    github: bool,
    output: Output,
    **workload_values: object,
) -> int:
    """Is this version slower, does it wait more, are its pictures others?

    MODEL is a diffusers folder, a checkpoint in one file, a hub id, module:function returning a
    pipeline, or nothing for the bundled model. Exit code: 0 pass, faster or accepted, 1 slower or
    worse, 3 undecided within the budget. `halftime gate accept` accepts on purpose.
    """
    _check_files(junit_file, history_file, accepted_file, bisecting=bisecting)
    look_around(output.quiet)
    seconds = parse_seconds(budget)
    with progress_bar(output.quiet, at_most=seconds) as progress:
        progress("importing torch and diffusers", 0, 1)
        from halftime.pipeline.load import kind_of
        from halftime.verbs.gate.accept import counting
        from halftime.verbs.gate.history import line_of, with_history
        from halftime.verbs.gate.run import GateSettings, gate
        from halftime.verbs.gate.sides import alike, here, side_of

        margin, error = parse_share(slower), parse_share(alpha)
        settings = GateSettings(margin, error, seconds, processes, pictures, exact, allowed)
        workload = take_workload(workload_values, model)
        kind_of(model)  # refuses what is no model
        candidate = here(recipe)

        def judge(base: Side, version: Side, lines: Sequence[Acceptance] = ()) -> Gate:
            sides = alike(base, candidate), alike(version, candidate)
            return gate(model, *sides, workload, settings, acceptances=lines, progress=progress)

        if bisecting:
            question = content_hash((model, recipe, workload, settings))
            record = _bisected(model, against, question, bisect_state, judge, settings, progress)
        else:
            progress(f"preparing {against}", 0, 1)
            with side_of(against, model) as base:
                record = judge(base, candidate, counting(accepted_file, base, model))
    record = with_history(record, history_file, line_of(record, recipe))
    files = _own_files(record, history_file, junit_file)
    if github:
        click.echo(github_annotations(record))
    emit(record, output._replace(quiet=output.quiet or github), extra=files)
    return EXIT_CODES[record.verdict]


def _own_files(record: Gate, history: str | None, junit_file: str | None) -> list[ExtraFile]:
    files = []
    if junit_file:
        files.append(ExtraFile(junit_file, partial(_write_junit, junit_file, record)))
    if history:
        files.append(ExtraFile(history, partial(append_lines, history, record.history[-1:])))
    return files


def _bisected(
    model: str | None,
    against: str,
    question: str,
    file: str,
    judge: Callable[[Side, Side], Gate],
    settings: GateSettings,
    progress: Progress,
) -> Gate:
    """The gate of the first bad version after `against`, going on from the answers in `file`."""
    from halftime.verbs.gate.bisect import Bisect, bisect, resumed, versions_between
    from halftime.verbs.gate.sides import side_of

    fresh = Bisect(question=question, versions=versions_between(against))
    return bisect(
        resumed(Path(file), fresh),
        Path(file),
        judge,
        0.0 if settings.exact else 2 * settings.alpha,  # either end of the margin may be wrong
        prepare=lambda version: side_of(version, model),
        progress=progress,
    )


def _check_files(
    junit_file: str | None, history: str | None, accepted: str | None, *, bisecting: bool
) -> None:
    """Raises BadFile or BadInput before anything is measured."""
    if bisecting and (history or accepted):
        raise BadInput(
            "--bisect looks at versions of before: they are no line of a --history, and nothing is "
            "--accepted of them. Leave those out."
        )
    if junit_file:
        check_writable(junit_file)
    if history:
        check_grows(history, "--history")
    if accepted and not Path(accepted).is_file():
        raise BadInput(f"--accepted {accepted}: there is no such file.")


def _write_junit(file: str, record: Gate) -> None:
    write_bytes(file, junit(record))
