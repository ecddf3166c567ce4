"""Each kind of pipeline and of file of docs/pipelines.md in the one command that the page shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from documented import ROOT, shown
from halftime.cli import _run
from tiny_pipelines.files import MODULAR, save_files

PAGE = ROOT / "docs" / "pipelines.md"
COMMANDS = [item.text.partition("#")[0].strip() for item in shown(PAGE) if item.kind == "sh"]
CASES = [command for command in COMMANDS if command.startswith("halftime profile")]
SHORT = [
    *("--runs", "1", "--warmup", "0", "--no-cold-start", "--no-probes", "--quiet"),
    *("--json", "session.json"),
]
SIZES = {"./wan": "16"}
# What the tiny ones of a kind need beside: their tokenizers are short.
MORE = {
    "./flux": ["--set", "max_sequence_length=16"],
    "./sd3": ["--set", "max_sequence_length=16"],
    "./wan": ["--set", "max_sequence_length=16"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_files(folder)
    return folder


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    monkeypatch.setattr("halftime.cli.profile.look_around", lambda quiet: None)
    return files


def test_the_page_has_every_kind() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize("command", CASES)
def test_each_kind_in_one_command(command: str, here: Path) -> None:
    words = shlex.split(command)[1:]
    if words[1] == "./modular" and not MODULAR:
        pytest.skip("diffusers 0.35 makes modular pipelines of downloaded components alone")
    # image-to-image takes a third of the steps
    steps = ["--steps", "8" if "2img" in words[1] or "sdxl" in words[1] else "2"]
    size = ["--size", SIZES.get(words[1], "32"), *steps]
    assert _run([*words, *SHORT, *size, *MORE.get(words[1], [])], debug=False) == 0
    session = json.loads((here / "session.json").read_text())
    rows = {row["stage"]: row for row in session["ledger"]}
    assert {"encode_prompt", "denoise", "vae_decode"} <= set(rows)
    assert not [stage for stage in rows if "not recognised" in stage]
    assert rows["denoise"]["per_step"]["count"] >= 1
    assert sum(row["seconds"] for row in rows.values()) == pytest.approx(session["wall_seconds"])
    if "--image" in words or "--control-image" in words:
        assert any(
            " x picture RGB " in content for content in session["workload"]["contents"].values()
        )
    if words[1:] == ["./sdxl", "--image", "photo.png"]:
        assert session["pipeline"] == "StableDiffusionXLImg2ImgPipeline"
        assert any("over the components of" in note for note in session["notes"])


def test_the_program_of_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = [item.text for item in shown(PAGE) if item.kind == "python"]
    exec(compile(program, "pipelines.md", "exec"), {})
    assert "denoise" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "./inpaint", "--image", "photo.png", "--mask", "mask.png", "--size", "32"],
        ["audit", "./model.safetensors", "--config", "./sd15", "--size", "32"],
        ["audit", "./sd15", "--lora", "style.safetensors:0.5", "--size", "32"],
        ["forecast", "./model.safetensors", "--config", "./sd15"],
    ],
)
def test_the_other_verbs_take_the_same_options(words: list[str], here: Path) -> None:
    more = ["--steps", "2"] if words[0] == "audit" else []
    assert _run([*words, *more, "--quiet", "--json", "result.json"], debug=False) == 0
    result = json.loads((here / "result.json").read_text())
    assert result["sites"] if words[0] == "audit" else result["stages"]


@pytest.mark.parametrize("verb", ["profile", "audit", "tune", "verify"])
def test_every_verb_with_a_model_has_every_option(verb: str) -> None:
    import importlib

    from halftime.records.workload import SOURCE

    command = importlib.import_module(f"halftime.cli.{verb}").command
    names = {parameter.name for parameter in command.params}
    assert {*SOURCE, "image", "mask", "control_image", "video"} <= names
    forecast = importlib.import_module("halftime.cli.forecast").run
    assert {*SOURCE} <= {parameter.name for parameter in forecast.params}
