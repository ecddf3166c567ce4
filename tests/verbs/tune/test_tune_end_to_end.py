"""`tune` on a tiny pipeline, for real: a recipe that applies, an interrupt that loses nothing, a
planted bad fix."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

import halftime
from halftime.base.errors import BadInput, Unrepeatable
from halftime.base.store import read_json, read_toml
from halftime.cli import _run
from halftime.fix import FIXES
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.records.recipe import Recipe
from halftime.records.tune import Partial, Tuning
from halftime.verbs.tune import run as tune_run
from halftime.verbs.tune.options import Options
from halftime.verbs.tune.run import tuned
from quick_tuning import tune_quickly
from tiny_pipelines import PIPELINES

ROOT = Path(__file__).parents[3]
FEW = ("vae-channels-last", "schedule-table")
WORKLOAD = Workload(steps=2, width=64, height=64)
COMMAND = ["tune", "--steps", "2", "--size", "64", "--budget", "10m"]


@pytest.fixture
def few_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    tune_quickly(monkeypatch, *FEW)


@pytest.mark.slow
def test_a_recipe_with_its_evidence(
    few_fixes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "tune --steps 2 --size 64 --budget 5m --prompts 2 --json tune.json --html tune.html --quiet"
    )
    code = _run(words.split(), debug=False)
    tuning = read_json(tmp_path / "tune.json", Tuning)
    assert code == {"equivalent": 0, "different": 1, "inconclusive": 3}[tuning.verdict or ""]
    assert {rung.fix for rung in tuning.ladder if rung.observed is not None} == set(FEW)
    assert {choice.name for choice in tuning.recipe.fixes} == {
        rung.fix for rung in tuning.ladder if rung.kept
    }
    assert tuning.baseline_seconds > 0
    assert tuning.before is not None
    assert tuning.after is not None
    assert read_toml(tmp_path / "recipe.toml", Recipe).fixes == tuning.recipe.fixes
    assert not (tmp_path / "recipe.partial.json").exists()
    with halftime.applied(halftime.bundled.load(), tmp_path / "recipe.toml"):
        pass
    page = (tmp_path / "tune.html").read_text()
    assert len(page) < 3_000_000
    assert page.count('type="range"') == 2
    assert not re.search(r"""(src|href)=["']https?:""", page)


@contextmanager
def tuning_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "halftime", *COMMAND]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        words, cwd=folder, text=True, stderr=subprocess.PIPE, env=variables
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for_a_trial(process: subprocess.Popen[str], partial: Path) -> Partial:
    for _ in range(1200):
        if partial.is_file() and read_json(partial, Partial).trials:
            return read_json(partial, Partial)
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("no trial in two minutes")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_the_next_run_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process of its own is interrupted; who goes on is this one."""
    partial = tmp_path / "recipe.partial.json"
    with tuning_process(tmp_path) as process:
        before = wait_for_a_trial(process, partial)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 130
    assert "goes on from there" in errors
    kept = read_json(partial, Partial)
    assert kept.trials[: len(before.trials)] == before.trials

    def interrupted(run: tune_run.TuningRun) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_run.TuningRun, "outcome", interrupted)
    monkeypatch.chdir(tmp_path)
    assert _run(COMMAND, debug=False) == 130
    assert f"continued: {len(kept.trials)} trials" in capfd.readouterr().err
    assert read_json(partial, Partial).trials[: len(kept.trials)] == kept.trials


@contextmanager
def _spoilt(pipeline, settings):  # type: ignore[no-untyped-def]
    """A fix that is fast and draws something else."""
    original = pipeline.vae.decode

    def decode(z, *args, **kwargs):  # type: ignore[no-untyped-def]
        return original(z.flip(-1), *args, **kwargs)

    vars(pipeline.vae)["decode"] = decode
    try:
        yield
    finally:
        vars(pipeline.vae).pop("decode")


@pytest.mark.slow
def test_a_planted_bad_fix_is_found_and_dropped(
    few_fixes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = replace(FIXES["vae-channels-last"], apply=_spoilt, applies=lambda *_: None)
    monkeypatch.setitem(FIXES, "vae-channels-last", bad)
    # the probe would refuse it at once: here the pictures of the whole recipe must show it
    monkeypatch.setattr("halftime.verbs.tune.bench.check_levels", lambda *_, **__: None)
    # whatever the clock says
    monkeypatch.setattr("halftime.verbs.tune.search.pays", lambda trial: not trial.failure)
    said: list[str] = []
    options = Options(budget=120.0, prompts=6)
    found = tuned(
        LoadedPipeline(halftime.bundled.load(), "bundled", ()), WORKLOAD, options, say=said.append
    ).tuning
    dropped = next(rung for rung in found.ladder if rung.fix == "vae-channels-last")
    assert not dropped.kept
    assert "verification" in dropped.why
    assert "vae-channels-last" not in {choice.name for choice in found.recipe.fixes}
    assert found.verdict != "different"


def test_a_twin_shares_weights_and_nothing_else() -> None:
    from halftime.pipeline.twin import twin

    pipeline = PIPELINES["sdxl"].build()
    other = twin(pipeline)
    assert other.unet is not pipeline.unet
    assert all(
        a is b for a, b in zip(pipeline.unet.parameters(), other.unet.parameters(), strict=True)
    )
    assert other.scheduler is not pipeline.scheduler


def test_a_pipeline_that_does_not_repeat_itself_is_refused_before_anything_is_tried() -> None:
    pipeline = halftime.bundled.load()
    given = type(pipeline).__call__

    class Careless(type(pipeline)):  # type: ignore[misc]
        def __call__(self, *args: object, generator: object = None, **kwargs: object) -> object:
            return given(self, *args, **kwargs)

    pipeline.__class__ = Careless
    with pytest.raises(Unrepeatable, match="does not repeat itself"):
        tuned(
            LoadedPipeline(pipeline, "careless", ()),
            Workload(steps=2, width=64, height=64),
            Options(),
        )


def test_a_budget_in_which_nothing_fits_is_refused_with_one_that_would_do() -> None:
    loaded = LoadedPipeline(halftime.bundled.load(), "bundled", ())
    with pytest.raises(
        BadInput, match=r"budget is 2\.00 s; a call takes .* Give more, for example --budget \d+m"
    ):
        tuned(loaded, WORKLOAD, Options(budget=2.0))
