"""What scripts rely on: --json for every command that ends, the exit codes of the docs page, shell
completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from halftime.cli import VERBS, _run
from halftime.cli import halftime as group

ROOT = Path(__file__).parents[2]
FAST = (
    "--steps",
    "2",
    "--size",
    "32",
    "--runs",
    "1",
    "--warmup",
    "0",
    "--no-cold-start",
    "--no-probes",
)
MODEL = "tiny_pipelines.images:sdxl"


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command that can be run, and those under it, by their full names."""
    if isinstance(command, click.Group):
        for child, found in (
            (child, command.get_command(click.Context(command), child))
            for child in command.list_commands(click.Context(command))
        ):
            assert found is not None
            yield from leaves(found, f"{name} {child}".strip())
        if not command.invoke_without_command:
            return
    yield name, command


LEAVES = dict(leaves(group, ""))


WRITES_JSON_LINES = {"captions collect"}  # its file is what it is for


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_that_ends_writes_json(name: str) -> None:
    options = {word for parameter in LEAVES[name].params for word in parameter.opts}
    runs_until_stopped = {"--port", "--host"} <= options
    assert runs_until_stopped or name in WRITES_JSON_LINES or "--json" in options


@pytest.mark.parametrize(
    "words", [["forecast", "gpus"], ["forecast", "models"], ["forecast", "sdxl"]]
)
def test_json_alone_on_standard_output(
    words: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert _run([*words, "--json"], debug=False) == 0
    assert json.loads(capfdbinary.readouterr().out)


def exit_codes() -> dict[int, str]:
    rows = re.findall(
        r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "exit-codes.md").read_text(), re.MULTILINE
    )
    return {int(code): commands for code, commands in rows}


def verify_folders(folder: Path, colours: tuple[int, int], count: int) -> list[str]:
    import numpy as np
    from PIL import Image

    for side, colour in zip("ab", colours, strict=True):
        (folder / side).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 60, (64, 64, 3))
            Image.fromarray((noise + colour).astype("uint8")).save(folder / side / f"{number}.png")
    return ["verify", str(folder / "a"), str(folder / "b")]


def test_codes_of_the_page(tmp_path: Path) -> None:
    assert set(exit_codes()) == {0, 1, 2, 3, 130, 141}
    assert (
        _run(["forecast", "sdxl", "--gpu", "A10G", "--json", str(tmp_path / "f.json")], debug=False)
        == 0
    )
    assert _run(["forecast", "sdxl", "--gpu", "A10G", "--claim", "denoise=1ms"], debug=False) == 1
    assert _run(["forecast", "sdxl", "--gpu", "nowhere"], debug=False) == 2


@pytest.mark.parametrize(
    ("colours", "count", "code"), [((100, 100), 6, 0), ((20, 190), 6, 1), ((100, 104), 2, 3)]
)
def test_codes_of_verify(tmp_path: Path, colours: tuple[int, int], count: int, code: int) -> None:
    assert _run([*verify_folders(tmp_path, colours, count), "--quiet"], debug=False) == code


def test_every_gate_of_the_page_is_in_the_source() -> None:
    """A command that can end with another code than 0 or 2 says so on the page."""
    gates = {
        path.stem
        for path in (ROOT / "src" / "halftime" / "cli").glob("*.py")
        if path.stem in VERBS
        and re.search(r"^\) -> int|^def command\(.*\) -> int", path.read_text(), re.MULTILINE)
    }
    assert len(gates) >= 5
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    assert {verb for verb in gates if f"`{verb}" not in page} == set()


def complete(shell: str, *words: str) -> list[str]:
    """What Tab gives after the words, by click's own protocol, in a process as the shell starts
    it."""
    line = " ".join(["halftime", *words])
    environment = {
        **os.environ,
        "_HALFTIME_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "halftime"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [entry.partition(",")[2] for entry in done.stdout.splitlines()]


def test_completion_of_verbs_and_options() -> None:
    assert complete("bash", "") == list(VERBS)
    assert complete("bash", "aud") == ["audit"]
    assert {"--json", "--steps"} <= set(complete("bash", "profile", "--"))
    assert complete("bash", "gateway", "mock", "--del") == ["--delay"]


def test_completion_in_a_real_bash(tmp_path: Path) -> None:
    command = tmp_path / "halftime"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m halftime "$@"\n')
    command.chmod(0o755)
    script = """
      eval "$(_HALFTIME_COMPLETE=bash_source halftime)"
      COMP_WORDS=(halftime forec) COMP_CWORD=1
      _halftime_completion halftime forec
      echo "${COMPREPLY[@]}"
    """
    path = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["forecast"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(shell: str) -> None:
    environment = {**os.environ, "_HALFTIME_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-m", "halftime"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "halftime" in done.stdout
    assert f"{shell}_complete" in done.stdout
