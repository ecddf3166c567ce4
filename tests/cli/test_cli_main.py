"""The command line's frame: verbs, help, versions, exit codes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import halftime
from halftime.cli import VERBS, _run
from halftime.cli import halftime as group


def test_every_verb_is_listed_and_has_a_command() -> None:
    context = click.Context(group)
    assert group.list_commands(context) == list(VERBS)
    for verb in VERBS:
        command = group.get_command(context, verb)
        assert command is not None
        assert command.help
        assert command.get_short_help_str(200)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--help"], debug=False) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert _run(["--version"], debug=False) == 0
    assert halftime.__version__ in capsys.readouterr().out


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["fly"], debug=False) == 2
    assert "No such command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "says"),
    [("profil", "Did you mean 'profile'?"), ("xyzzy", "There are: profile, run, trace")],
)
def test_a_verb_that_is_not_there_gets_a_hint(
    word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([word], debug=False) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([word], debug=False) == 0
    assert halftime.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (halftime.base.errors.BadInput("no"), 2, "halftime: no"),
        (MemoryError("big"), 2, "out of memory (big)"),
        (
            ValueError("odd\nmore"),
            2,
            "ValueError: odd (tests/cli/test_cli_main.py:{line}). Run again with --debug",
        ),
        (OSError(), 2, "OSError: no message"),
    ],
)
def test_errors_end_in_one_sentence(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    line = failing.__code__.co_firstlineno + 1
    monkeypatch.setattr(group, "main", failing)
    assert _run([], debug=False) == code
    err = capsys.readouterr().err
    assert words.replace("{line}", str(line)) in err
    assert "Traceback" not in err


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "halftime", "--version"], capture_output=True, text=True, check=True
    )
    assert halftime.__version__ in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_imports_no_torch(verb: str) -> None:
    code = f"import sys, halftime.cli.{verb}; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "diffusers", "matplotlib"} & set(completed.stdout.split())
