"""`halftime profile` as a user types it: outputs, bad input, and nothing half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from halftime.cli import main

MODEL = "tiny_pipelines.images:sdxl"
FAST = ["--steps", "2", "--size", "32", "--runs", "2", "--warmup", "0", "--no-cold-start"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


def test_json_on_stdout_is_alone_there(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("profile", MODEL, *FAST, "--json", "-") == 0
    data = json.loads(capfdbinary.readouterr().out)
    assert sum(row["seconds"] for row in data["ledger"]) == pytest.approx(data["wall_seconds"])
    assert data["workload"]["steps"] == 2


def test_all_outputs_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "markdown")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    assert run("profile", MODEL, *FAST, "--trace", str(tmp_path / "trace"), *options) == 0
    out = capfd.readouterr().out
    assert "denoise" in out
    assert "unexplained" in out
    assert "\x1b[" not in out
    assert "<!doctype html>" in files["html"].read_text()
    assert "| denoise |" in files["markdown"].read_text()
    assert (tmp_path / "trace" / "halftime.trace.json.gz").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.html",
        "out.json",
        "out.markdown",
        "trace",
    ]


def test_the_trace_holds_our_stages(tmp_path: Path) -> None:
    import gzip

    assert run("profile", MODEL, *FAST, "--quiet", "--no-probes", "--trace", str(tmp_path)) == 0
    with gzip.open(tmp_path / "halftime.trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {
        "halftime/encode_prompt",
        "halftime/denoise/denoiser#0",
        "halftime/denoise/scheduler#1",
    } <= names
    assert "halftime/vae_decode/vae" in names


def test_quiet_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("profile", MODEL, *FAST, "--quiet", "--json", str(tmp_path / "a.json")) == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_against_an_earlier_session(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = str(tmp_path / "base.json")
    assert run("profile", MODEL, *FAST, "--quiet", "--json", base) == 0
    assert run("profile", MODEL, *FAST, "--against", base) == 0
    assert "Speedup" in capfd.readouterr().out
    assert run("profile", MODEL, *FAST, "--seed", "3", "--against", base) == 2
    assert "workload.seed is 0 in one and 3 in the other" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "'nowhere' is not a model"),
        ([MODEL, "--steps", "0"], "steps is 0; it must be 1 or more"),
        ([MODEL, "--steps", "-2"], "steps is -2"),
        ([MODEL, "--steps", "many"], "not a valid integer"),
        ([MODEL, "--size", "33"], "width 33 is not divisible by 2"),
        ([MODEL, "--size", "huge"], "'huge' is not a size"),
        ([MODEL, "--device", "cuda:5"], "device 'cuda:5' does not exist here. Available: cpu"),
        ([MODEL, "--dtype", "int3"], "dtype 'int3' is not known"),
        ([MODEL, "--scheduler", "Magic"], "scheduler 'Magic' is not in diffusers"),
        ([MODEL, "--runs", "0"], "runs must be 1 or more"),
        ([MODEL, "--set", "oops"], "is not NAME=VALUE"),
        ([MODEL, "--workload", "none.toml"], "cannot read none.toml"),
        ([MODEL, "--against", "none.json"], "cannot read none.json"),
        ([MODEL, "--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("profile", *arguments, "--no-cold-start") == 2
    captured = capfd.readouterr()
    assert complaint in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_file_that_is_no_session(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert run("profile", MODEL, "--against", str(tmp_path / "x.json")) == 2
    assert "is not a session file" in capfd.readouterr().err


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "nowhere", "--debug") == 2
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.slow
def _wait_for_processor_time(pid: int, seconds: float) -> None:
    """A busy machine takes longer by the clock, and not by this."""
    process, end = psutil.Process(pid), time.monotonic() + 120
    while sum(process.cpu_times()[:2]) < seconds and time.monotonic() < end:
        time.sleep(0.1)


def test_interrupted_in_mid_run_leaves_no_file_and_says_130(tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "halftime",
            "profile",
            MODEL,
            "--steps",
            "2",
            "--size",
            "32",
            "--runs",
            "100000",
            "--no-cold-start",
            "--json",
            str(tmp_path / "never.json"),
        ],
        env={**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}{os.pathsep}{tests}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for_processor_time(child.pid, 10.0)  # imports take about 4 of it
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 130
    assert err.strip().splitlines()[-1] == "halftime: interrupted; nothing was written."
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_profiled_with_its_fixes(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        '[[fixes]]\nname = "solver-steps"\nsettings = { steps = 2 }\n'
    )
    out = tmp_path / "session.json"
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "profile",
                "--steps",
                "3",
                "--runs",
                "1",
                "--warmup",
                "0",
                "--no-probes",
                "--quiet",
                "--recipe",
                str(tmp_path / "plan.toml"),
                "--json",
                str(out),
            ]
        )
    assert not caught.value.code
    session = json.loads(out.read_text())
    denoise = next(row for row in session["ledger"] if row["stage"] == "denoise")
    assert next(part for part in denoise["parts"] if part["stage"] == "scheduler")["calls"] % 2 == 0
    assert session.get("cold_start") is None


@pytest.mark.slow
def test_compiled_code_is_kept_beside_the_recipe_and_taken_from_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from halftime.base.store import write_toml
    from halftime.pipeline.load import load
    from halftime.records import Workload
    from halftime.records.recipe import Choice, Recipe
    from halftime.verbs.tune.artefacts import save

    model = "tiny_pipelines.images:sdxl_small_vae"
    recipe, kept = tmp_path / "recipe.toml", tmp_path / "recipe.artefacts"
    workload = Workload(steps=2, width=32, height=32)
    architecture = architecture_of(load(model, workload).pipeline)
    write_toml(recipe, Recipe(architecture=architecture, fixes=(Choice(name="vae-dtype"),)))
    assert save(model, workload, recipe) is None  # nothing to compile, so no process either
    write_toml(recipe, Recipe(architecture=architecture, fixes=(Choice(name="vae-compile"),)))
    assert save(model, workload, recipe) == kept
    before = kept.read_bytes()
    words = ["profile", model, *FAST, "--no-probes", "--quiet", "--recipe", str(recipe)]
    assert run(*words, "--artefacts", "--json", str(tmp_path / "session.json")) == 0
    assert kept.read_bytes() == before
    assert run(*words, "--artefacts", str(recipe)) == 2
    assert "not a file of compile artefacts" in capfd.readouterr().err


def architecture_of(pipeline: object) -> dict[str, str]:
    from halftime.fix.apply import architecture

    return architecture(pipeline)  # type: ignore[arg-type]


def test_artefacts_without_a_recipe_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("profile", MODEL, *FAST, "--artefacts", "some.artefacts") == 2
    assert "--recipe" in capfd.readouterr().err


def test_artefacts_that_lie_unused_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from halftime.cli.options import take_artefacts

    recipe = tmp_path / "recipe.toml"
    assert take_artefacts(None, str(recipe)) is None
    assert capfd.readouterr().err == ""
    (tmp_path / "recipe.artefacts").touch()
    assert take_artefacts(None, str(recipe)) is None
    assert "--artefacts" in capfd.readouterr().err
    assert take_artefacts("", str(recipe)) == str(tmp_path / "recipe.artefacts")
    assert take_artefacts("other", str(recipe)) == "other"
    assert take_artefacts(None, None) is None
