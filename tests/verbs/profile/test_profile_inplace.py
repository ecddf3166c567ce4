"""Around the user's own code: a block, and a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import halftime
from halftime.base.errors import BadFile, BadInput, UnknownModel
from halftime.cli import _run
from halftime.testing import FakeClock, FakePipeline
from halftime.verbs.profile.script import run_script
from tiny_pipelines import PIPELINES


def test_a_block_around_ones_own_calls() -> None:
    pipeline = PIPELINES["sd15"].build()
    size = {"height": 32, "width": 32, "output_type": "np"}
    plain = pipeline("a cat", num_inference_steps=2, **size, generator=_seeded()).images
    before = type(pipeline), set(vars(pipeline)), type(pipeline).__call__
    with halftime.profiling(pipeline) as p:
        for _ in range(3):
            drawn = pipeline("a cat", num_inference_steps=2, **size, generator=_seeded()).images
    assert (drawn == plain).all()
    session = p.session
    assert len(session.runs) == 2
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert session.row("denoise").per_step.count == 2  # type: ignore[union-attr]
    work = session.workload
    assert (work.prompts, work.steps, work.width, work.seed) == (("a cat",), 2, 32, 7)
    assert work.arguments == {"output_type": "np"}
    assert (type(pipeline), set(vars(pipeline)), type(pipeline).__call__) == before


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_one_call_is_told_as_the_first() -> None:
    pipeline = FakePipeline(FakeClock())
    with halftime.profiling(pipeline) as p:
        pipeline("x", num_inference_steps=2)
    assert len(p.session.runs) == 1
    assert any("one call alone" in note for note in p.session.notes)


def test_calls_of_several_kinds_are_noted() -> None:
    pipeline = FakePipeline(FakeClock())
    with halftime.profiling(pipeline) as p:
        for steps in (2, 2, 2, 3):
            pipeline("x", num_inference_steps=steps)
    assert p.session.workload.steps == 2
    assert any("2 different workloads" in note for note in p.session.notes)


def test_a_block_without_a_call_and_a_call_that_fails() -> None:
    pipeline = FakePipeline(FakeClock(), fail_at=0)
    with halftime.profiling(pipeline) as p, pytest.raises(RuntimeError, match="planted"):
        pipeline("x", num_inference_steps=2)
    with pytest.raises(BadInput, match="was not called within the block"):
        _ = p.session
    with pytest.raises(UnknownModel, match="this is int"), halftime.profiling(3):  # type: ignore[arg-type]
        pass


SCRIPT = """
import sys
from halftime.testing import FakeClock, FakePipeline

class Mine(FakePipeline):  # defined by the script
    def __call__(self, prompt, *args, **kwargs):
        calls.append(prompt)
        return super().__call__(prompt, *args, **kwargs)

calls = []
first, second = Mine(FakeClock()), FakePipeline(FakeClock())
first(sys.argv[1], num_inference_steps=4)
first("later", num_inference_steps=4)
second("another", num_inference_steps=9)
print("calls", calls)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "draw.py").write_text(SCRIPT)
    return tmp_path / "draw.py"


def test_a_scripts_first_pipeline_is_profiled(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, calls = sys.argv, {kind: vars(kind)["__call__"] for kind in (FakePipeline,)}
    session = run_script(script, ["a cat"], runs=2)
    assert session.pipeline == "Mine"
    assert len(session.runs) == 2
    assert (session.workload.prompts, session.workload.steps) == (("a cat",), 4)
    assert session.row("denoise").per_step.count == 4  # type: ignore[union-attr]
    assert "calls ['a cat', 'a cat', 'a cat', 'later']" in capsys.readouterr().out
    assert sys.argv is argv
    assert vars(FakePipeline)["__call__"] is calls[FakePipeline]


def test_a_scripts_own_calls_alone(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = run_script(script, ["a cat"], runs=0)
    assert "calls ['a cat', 'later']" in capsys.readouterr().out
    assert len(session.runs) == 1
    assert session.workload.prompts == ("later",)


def test_a_script_that_fails_afterwards_loses_nothing(script: Path) -> None:
    script.write_text(SCRIPT + "raise ValueError('disk full')\n")
    session = run_script(script, ["a cat"], runs=0)
    assert any("failed after what was measured: ValueError: disk full" in n for n in session.notes)
    script.write_text(SCRIPT + "sys.exit(3)\n")
    assert any("exit code 3" in note for note in run_script(script, ["a cat"], runs=0).notes)


def test_a_script_without_a_pipeline(script: Path, tmp_path: Path) -> None:
    script.write_text("import sys; sys.exit(4)")
    with pytest.raises(BadInput, match=r"called no diffusers pipeline .* exit code 4"):
        run_script(script)
    script.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        run_script(script)
    with pytest.raises(BadFile, match="there is no script"):
        run_script(tmp_path / "gone.py")


def test_the_command_keeps_the_scripts_words_out_of_its_result(
    script: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(["run", "--runs", "1", "--json", "-", str(script), "a cat"], debug=False) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["pipeline"] == "Mine"
    assert "calls" in captured.err
    assert _run(["run", str(script), "a cat", "--steps"], debug=False) == 0  # its own option
    assert "denoise" in capfd.readouterr().out
