"""`halftime audit` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import DDIMScheduler, DiffusionPipeline

import tiny_pipelines
from halftime.cli import main

COGVIDEOX = [
    "tiny_pipelines.videos:cogvideox",
    "--size",
    "16",
    "--set",
    "num_frames=8",
    "--set",
    "max_sequence_length=16",
    "--set",
    "use_dynamic_cfg=true",
]
FLUX = [
    "tiny_pipelines.images:flux",
    "--size",
    "32",
    "--set",
    "max_sequence_length=16",
    "--steps",
    "4",
]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["audit", *arguments])
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


def test_the_golden_count_and_the_contract_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*COGVIDEOX, "--quiet", "--json", "audit.json") == 0
    data = json.loads(Path("audit.json").read_text())
    assert (
        data["in_loop_total"],
        data["in_loop_d2h"],
        data["in_loop_h2d"],
        data["capturable"],
    ) == (79, 79, 0, False)
    fields = {"kind", "direction", "file", "line", "count", "in_loop", "per_step", "stage", "fix"}
    assert all(fields <= set(site) for site in data["sites"])
    assert data["not_seen"]


def test_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*COGVIDEOX) == 0
    out = capfd.readouterr().out
    assert "79 waits in the denoising loop" in " ".join(out.split())
    assert "cannot be captured" in out
    assert "schedule-table" in out
    assert max(map(len, out.splitlines())) <= 80


def test_html_and_markdown(tmp_path: Path) -> None:
    files = tmp_path / "a.html", tmp_path / "a.md"
    assert run(*FLUX, "--quiet", "--html", str(files[0]), "--markdown", str(files[1])) == 0
    assert all("Not seen" in file.read_text() for file in files)


def test_github_annotations(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*COGVIDEOX, "--github") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.startswith("::warning file=diffusers/") for line in lines] == [
        True,
        True,
        True,
        False,
    ]
    assert lines[-1].startswith("::notice")


def test_annotations_name_a_checkouts_files_from_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "src" / "waits_here"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "import diffusers\nfrom tiny_pipelines.images import flux\n\n"
        "class Peeking(diffusers.FlowMatchEulerDiscreteScheduler):\n"
        "    def step(self, model_output, *args, **kwargs):\n"
        "        model_output.max().item()\n"
        "        return super().step(model_output, *args, **kwargs)\n\n"
        "def make():\n    pipeline = flux()\n    pipeline.scheduler = Peeking()\n    return "
        "pipeline\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    assert run("waits_here:make", *FLUX[1:], "--github") == 0
    assert "::warning file=src/waits_here/__init__.py,line=6," in capfd.readouterr().out


def test_a_new_wait_against_the_baseline_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "audit.json")
    assert run(*FLUX, "--quiet", "--json", base) == 0
    assert run(*FLUX, "--quiet", "--baseline", base) == 0
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text(
        "import diffusers\nfrom tiny_pipelines.images import flux\n\n"
        "class Peeking(diffusers.FlowMatchEulerDiscreteScheduler):\n"
        "    def step(self, model_output, *args, **kwargs):\n"
        "        model_output.abs().max().item()\n"
        "        return super().step(model_output, *args, **kwargs)\n\n"
        "def make():\n    pipeline = flux()\n    pipeline.scheduler = Peeking()\n    return "
        "pipeline\n"
    )
    assert run("planted:make", *FLUX[1:], "--quiet", "--baseline", base) == 1
    assert (
        "new wait in the loop: planted.py:6 item, 4 times: model_output.abs().max().item()"
        in capfd.readouterr().err
    )


def test_a_baseline_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*FLUX, "--baseline", str(tmp_path / "none.json")) == 2
    assert "cannot read" in capfd.readouterr().err


def test_a_loop_that_is_not_seen_does_not_pass_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "audit.json")
    assert run(*FLUX, "--quiet", "--json", base) == 0
    monkeypatch.chdir(tmp_path)
    Path("loopless.py").write_text(
        "import functools\nimport diffusers\nfrom tiny_pipelines.images import flux\n\n"
        "class Loopless(diffusers.FluxPipeline):\n"
        "    @functools.wraps(diffusers.FluxPipeline.__call__)\n"
        "    def __call__(self, *args, **kwargs):\n"
        "        return None  # neither a progress bar nor a step of the scheduler\n\n"
        "def make():\n    pipeline = flux()\n    pipeline.__class__ = Loopless\n    return "
        "pipeline\n"
    )
    assert run("loopless:make", *FLUX[1:], "--quiet", "--baseline", base) == 1
    assert "no denoising loop was seen" in capfd.readouterr().err


def clipping() -> DiffusionPipeline:
    tiny = tiny_pipelines.PIPELINES["sd15"].build()
    tiny.scheduler = DDIMScheduler.from_config(tiny.scheduler.config, clip_sample=True)
    return tiny


def test_advice_is_tried_before_it_is_given(tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    assert run(f"{__name__}:clipping", "--steps", "4", "--quiet", "--json", str(out)) == 0
    data = json.loads(out.read_text())
    assert {site["fix"] for site in data["sites"] if site["in_loop"]} == {None}
    [finding] = data["findings"]
    assert (
        "schedule-table takes none of these 22 waits away: it does not apply" in finding["message"]
    )
