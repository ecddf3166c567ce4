"""The command line: each verb's file parses, calls one function, renders, sets the exit code."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
import traceback
import warnings
from typing import NoReturn

import click

from halftime import __version__
from halftime.base.errors import HalftimeError, HalftimeWarning, ReaderLeft
from halftime.base.source import in_a_sentence
from halftime.base.store import reason
from halftime.cli.ending import (
    CommandNotes,
    code_where_the_reader_left,
    forgiving_streams,
    is_closed_pipe,
)

# verb -> what it answers; `halftime.cli.VERB` holds `command`. Listed here so that --help imports
# no verb.
VERBS = {
    "profile": "Where does the time of one call go?",
    "run": "The same, of the first pipeline that a script of your own calls.",
    "trace": "The same, from a torch.profiler trace recorded elsewhere.",
    "audit": (
        "Where would CPU and GPU wait for each other, and can the loop be captured? No GPU needed."
    ),
    "forecast": "What would each stage take on a named GPU? No GPU, no weights.",
    "plan": "Which precision, offload and parallelism fits a card and meets a target?",
    "verify": "Are two sets of pictures the same within noise?",
    "tune": "Which fixes reach my target with my quality?",
    "gate": "Is this version slower, does it wait more, are its pictures others?",
    "serve": "Run it: warm before ready, preview then final, an OpenAI-compatible images API.",
    "gateway": "What does the proxy in front cost?",
    "captions": "Which caption requests need the large model?",
    "replay": "The same workload as in a report, on this machine: what explains the difference?",
    "show": "What did a file of any verb say? Drawn again from its JSON or page.",
    "doctor": "What is installed, what can be used, and what would be faster?",
}

EXIT_INTERRUPTED = 130


class _Verbs(click.Group):
    """Imports a verb's file only when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"halftime.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in VERBS and not word.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(word, VERBS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(VERBS)}."
            ctx.fail(f"No such command {word!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="halftime")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def halftime(debug: bool) -> None:
    """Find where a diffusion pipeline's time goes, fix it, and prove that the pictures hold."""
    if not debug:
        _hush_libraries()


def _hush_libraries() -> None:
    """Hide the libraries' hints about versions and backends, which --debug shows."""
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    warnings.simplefilter("ignore", category=FutureWarning)
    warnings.simplefilter("ignore", category=UserWarning)
    warnings.simplefilter("once", category=HalftimeWarning)
    warnings.formatwarning = _one_line


_as_python_writes = warnings.formatwarning


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Ours without the place in the sources, which is of no use on a command line."""
    if issubclass(category, HalftimeWarning):
        return f"warning: {message}\n"
    return _as_python_writes(message, category, filename, lineno, line)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run it and exit: 0 done, 1 a gate said no, 2 bad input or failure, 130 interrupted,
    141 standard output was closed before its end."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # --debug is welcome anywhere on the line, where people add it after a failure.
    arguments = (["--debug"] if debug else []) + [word for word in arguments if word != "--debug"]
    code = _run(arguments, debug)
    # or Python's last collection walks through all of torch and diffusers: 1.0 s of a short
    # profile's 5.9
    gc.freeze()
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    notes = CommandNotes()
    with forgiving_streams() as output:
        code = _code(arguments, debug, notes)
    if output.failure is None or code == EXIT_INTERRUPTED:
        return code
    if is_closed_pipe(output.failure):
        return code_where_the_reader_left(code)
    if not notes.problems:
        _fail(f"cannot write to standard output: {reason(output.failure)}.", False, 2)
    return 2


def _code(arguments: list[str], debug: bool, notes: CommandNotes) -> int:
    try:
        result = halftime.main(arguments, prog_name="halftime", standalone_mode=False, obj=notes)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail(notes.interruption(), debug, EXIT_INTERRUPTED)
    except (ReaderLeft, BrokenPipeError):
        return ReaderLeft.exit_code  # nobody is there to be told
    except HalftimeError as error:
        return _fail(str(error), debug, error.exit_code)
    except Exception as error:
        return _fail(
            in_a_sentence(error) + ("" if debug else " Run again with --debug to see where."),
            debug,
            2,
        )


def _fail(message: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"halftime: {message}", err=True)
    return code
