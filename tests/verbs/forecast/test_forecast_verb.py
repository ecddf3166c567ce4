"""The verb as a user meets it: models, fixes, claims, prices, calibration, files, the command
line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import halftime
from halftime import bundled
from halftime.base.errors import BadFile, BadInput, UnknownModel
from halftime.base.store import write_json
from halftime.cli import _run
from halftime.records import Environment, LedgerRow, Session, Workload
from halftime.report.forecast import calibration_report_of, report_of
from halftime.report.page import html
from halftime.verbs.forecast import cache
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.presets import PRESETS
from halftime.verbs.forecast.run import forecast
from halftime.verbs.forecast.scenario import ForecastSettings, scenario_of
from halftime.verbs.forecast.session import calibrate

NAMES = {
    "vae-dtype",
    "vae-channels-last",
    "vae-compile",
    "tiny-vae",
    "text-warmup",
    "prompt-cache",
    "batch-prompts",
    "denoiser-dtype",
    "denoiser-channels-last",
    "denoiser-compile",
    "fused-qkv",
    "attention-backend",
    "denoiser-quantize",
    "guidance-interval",
    "step-cache",
    "openvino",
    "onnxruntime",
    "schedule-table",
    "set-begin-index",
    "loop-graph",
    "solver-steps",
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this file's traces are kept: one is made once."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(autouse=True)
def _own_folders(traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(traces))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_the_founding_claim_is_impossible() -> None:
    predicted = forecast(
        "sdxl",
        "A10G",
        settings=ForecastSettings(steps=30),
        claims=["denoise=2700ms", "total=1h", "denoise=7s"],
    )
    assert [claim.verdict for claim in predicted.claims] == [
        "impossible",
        "possible",
        "implausible",
    ]
    denoise = predicted.stages[1]
    assert denoise.flops / 30 == pytest.approx(13.5e12, rel=0.01)
    assert "70.0 TFLOP/s" in predicted.claims[0].arithmetic
    with pytest.raises(BadInput, match="the stages are"):
        forecast("sdxl", "A10G", claims=["unet=1s"])
    with pytest.raises(BadInput, match="STAGE=DURATION"):
        forecast("sdxl", "A10G", claims=["2s"])


def test_stages_add_up_and_bands_hold_them() -> None:
    predicted = forecast("sd15", "T4")
    assert sum(stage.seconds for stage in predicted.stages) == pytest.approx(
        predicted.total.seconds
    )
    for stage in (*predicted.stages, predicted.total):
        assert stage.floor_seconds <= stage.low <= stage.seconds <= stage.high
    assert predicted.parameters["denoiser"] == pytest.approx(859.5e6, rel=1e-3)
    assert predicted.fits
    assert not forecast("flux-dev", "T4").fits


def test_the_fixes_have_the_names_of_the_fixes() -> None:
    predicted = forecast(
        "sd15", "A100", settings=ForecastSettings(dtype="fp32", vae_dtype="fp32", attention="math")
    )
    names = [fix.fix for fix in predicted.fixes]
    assert set(names) == NAMES - {"openvino", "onnxruntime", "denoiser-quantize"}
    ratios = {fix.fix: fix.ratio for fix in predicted.fixes}
    assert all(fix.low <= fix.ratio <= fix.high for fix in predicted.fixes)
    assert ratios["denoiser-dtype"] > 2
    assert ratios["attention-backend"] > 1
    assert ratios["text-warmup"] == 1
    stacked = [fix.stacked_ratio for fix in predicted.fixes if fix.stacked_ratio]
    assert stacked == sorted(stacked)


def test_the_package_is_the_verb() -> None:
    assert halftime.forecast("sd15", "T4") == forecast("sd15", "T4")


def test_what_cannot_change_is_not_listed() -> None:
    names = [fix.fix for fix in forecast("flux-dev", "H100").fixes]
    assert "vae-dtype" not in names
    assert "guidance-interval" not in names
    assert "tiny-vae" in names
    assert "tiny-vae" not in [fix.fix for fix in forecast("wan2.1-1.3b", "H100").fixes]


@pytest.mark.parametrize(
    ("gpu", "kinds"),
    [
        ("V100", set()),
        ("A10G", {"int8-dynamic"}),
        ("H100", {"int8-dynamic", "fp8-dynamic"}),
        ("B200", {"int8-dynamic", "fp8-dynamic", "nvfp4-dynamic"}),
    ],
)
def test_quantisation_by_what_the_gpu_multiplies_in(gpu: str, kinds: set[str]) -> None:
    """fp4 is the faster of two, and the less certain."""
    rows = {
        fix.kind: fix for fix in forecast("flux-dev", gpu).fixes if fix.fix == "denoiser-quantize"
    }
    assert set(rows) == kinds
    if "nvfp4-dynamic" in kinds:
        fp4, fp8 = rows["nvfp4-dynamic"], rows["fp8-dynamic"]
        assert fp4.ratio > fp8.ratio
        assert fp4.high / fp4.low > fp8.high / fp8.low


def test_options_do_what_they_say() -> None:
    plain = forecast("sd15", "T4").total
    assert (
        forecast("sd15", "T4", settings=ForecastSettings(compiled=True)).total.seconds
        < plain.seconds
    )
    assert (
        forecast("sd15", "T4", settings=ForecastSettings(guidance=False)).total.flops
        < 0.6 * plain.flops
    )
    assert (
        forecast("sd15", "T4", settings=ForecastSettings(batch=4)).total.seconds > 3 * plain.seconds
    )
    tiled = forecast("sd15", "T4", settings=ForecastSettings(tiled=True, width=1024))
    untiled = forecast("sd15", "T4", settings=ForecastSettings(width=1024))
    assert tiled.stages[2].memory_bytes < untiled.stages[2].memory_bytes
    for wrong in (
        ForecastSettings(steps=-1),
        ForecastSettings(dtype="fp3"),
        ForecastSettings(attention="none"),
    ):
        with pytest.raises(BadInput):
            forecast("sd15", "T4", settings=wrong)


def test_a_folder_of_configurations_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    for path in bundled.MODEL.rglob("*.json"):
        target = folder / path.relative_to(bundled.MODEL)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    predicted, original = forecast(str(folder), "T4"), forecast(None, "T4")
    assert predicted.width == 128
    assert predicted.total.seconds == original.total.seconds
    assert predicted.total.bound == "launch"
    (folder / "model_index.json").unlink()
    with pytest.raises(UnknownModel, match="has no model_index"):
        resolve(str(folder))
    (folder / "model_index.json").write_text("[1]")
    with pytest.raises(BadFile, match="does not hold a JSON object"):
        resolve(str(folder))


def test_models_by_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("stabilityai/stable-diffusion-xl-base-1.0").name == "sdxl"
    assert resolve("SDXL").name == "sdxl"
    assert [c.role for c in resolve("sdxl_vae").components] == ["vae"]
    with pytest.raises(UnknownModel, match="Nearest"):
        resolve("sdxxl-turbo/unknown")


def test_traces_are_kept_and_broken_ones_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = ForecastSettings(width=192, height=128)
    first = forecast("bundled", "T4", settings=settings)
    cached = sorted(cache.folder().glob("*.json.gz"))
    assert cached
    for path in cached:
        path.write_bytes(b"not a trace")
    cache._read.cache_clear()
    assert forecast("bundled", "T4", settings=settings) == first
    shutil.rmtree(cache.folder())
    assert forecast("bundled", "T4", settings=settings) == first


def test_the_cheapest_gpu(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[per_hour]\nT4 = 0.4\nA10G = 1.0\nH100 = 4.0\n")
    predicted = forecast("flux-dev", "H100", prices=prices, target_seconds=10)
    assert predicted.prices[0].gpu == "H100-SXM"
    assert {price.gpu: price.fits for price in predicted.prices} == {
        "H100-SXM": True,
        "A10G": False,
        "T4": False,
    }
    assert predicted.prices[0].per_picture == pytest.approx(4 / 3600 * predicted.prices[0].seconds)
    for text in ("per_hour = 3", "[per_hour]\nT4 = -1", "[per_hour]\nT4 = 'cheap'", "not toml ["):
        prices.write_text(text)
        with pytest.raises(BadFile):
            forecast("sd15", "T4", prices=prices)


def session_on(device: str, slower: float) -> Session:
    stages = forecast(
        "sdxl", "A10G", settings=ForecastSettings(steps=30), calibration="none"
    ).stages
    rows = tuple(
        LedgerRow(stage=s.stage, seconds=s.seconds * slower, share=s.seconds / 20) for s in stages
    )
    environment = Environment(
        system="Linux",
        processor="some CPU",
        cores=8,
        memory_bytes=2**34,
        threads=8,
        device="cuda:0",
        device_name=device,
    )
    return Session(
        wall_seconds=20.0,
        ledger=rows,
        environment=environment,
        workload=Workload(steps=30),
        model="sdxl",
        created="2026-11-23T00:00:00Z",
    )


def test_a_session_calibrates_later_forecasts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "session.json"
    write_json(path, session_on("NVIDIA A10G", 1.3))
    before = forecast("sd15", "A10G")
    assert _run(["forecast", "calibrate", str(path)], debug=False) == 0
    assert "A10G, calibrated" in capsys.readouterr().out
    after = forecast("sd15", "A10G")
    assert 1.05 < after.total.seconds / before.total.seconds < 1.4
    assert after.total.high / after.total.low < before.total.high / before.total.low
    assert "a session of sdxl, 1024x1024, 30 steps" in after.calibrated_on
    assert forecast("sd15", "A10G", calibration="none").total == before.total
    calibration = calibrate(path)
    with pytest.raises(BadInput, match="the calibration is for the A10G"):
        forecast("sd15", "T4", calibration=calibration)
    assert "denoise" in html(calibration_report_of(calibration, "x.json"))


def test_a_session_of_a_cpu_calibrates_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a GPU in the table"):
        calibrate(session_on("AMD EPYC", 1.0))


def test_the_contract_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["forecast", "sdxl", "--gpu", "A10G", "--json"], debug=False) == 0
    read = json.loads(capsys.readouterr().out)
    keys = {
        "stage",
        "seconds",
        "low",
        "high",
        "floor_seconds",
        "bound",
        "flops",
        "bytes",
        "kernels",
    }
    assert all(keys <= set(stage) for stage in (*read["stages"], read["total"]))
    assert read["fixes"]
    assert all({"fix", "ratio", "low", "high"} <= set(fix) for fix in read["fixes"])


@pytest.mark.parametrize("calibrate_with", ["none", "one-per-gpu"])
def test_evaluate_on_the_command_line(
    calibrate_with: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path(__file__).parents[3] / "workshop" / "forecast" / "published_latency.csv"
    assert (
        _run(
            ["forecast", "evaluate", str(rows), "--calibrate", calibrate_with, "--json"],
            debug=False,
        )
        == 0
    )
    read = json.loads(capsys.readouterr().out)
    assert read["overall"]["median"] < 0.2
    assert len(read["rows"]) == 45
    assert _run(["forecast", "evaluate", str(rows)], debug=False) == 0
    assert "By family" in capsys.readouterr().out


def test_other_words_and_errors_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["forecast", "gpus"], debug=False) == 0
    assert _run(["forecast", "models"], debug=False) == 0
    assert _run(["forecast", "--gpu", "T4", "sd15", "--claim", "total=1ms"], debug=False) == 1
    assert _run(["forecast", "--help"], debug=False) == 0
    assert "--claim" in capsys.readouterr().out
    assert _run(["forecast", "sd15", "--gpu", "Voodoo"], debug=False) == 2
    assert _run(["forecast", "nonesuch"], debug=False) == 2
    assert "halftime forecast models" in capsys.readouterr().err


def test_the_page_draws_the_roofline() -> None:
    page = html(report_of(forecast("sdxl", "A10G", claims=["denoise=2700ms"])))
    assert "<svg" in page
    assert "FLOP per byte moved" in page
    assert "impossible" in page
    assert "var(--series-" in page


def test_a_built_in_forecast_needs_no_torch() -> None:
    code = (
        "import sys; from halftime.verbs.forecast.run import forecast; forecast('sdxl', 'A10G'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- what a model cannot take


@pytest.mark.parametrize("name", PRESETS)
def test_every_built_in_model_takes_its_own_size(name: str) -> None:
    scenario_of(resolve(name), ForecastSettings())


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        (
            "sdxl",
            {"width": 1001},
            "width is 1001, and sdxl draws in multiples of 8 .* 1000 or 1008",
        ),
        ("flux-dev", {"height": 1032}, "multiples of 16 pixels. Nearest: 1024 or 1040"),
        ("sd3-medium", {"width": 1000}, "multiples of 16"),
        ("sd3-medium", {"width": 4096}, "positions for 3072 pixels at most"),
        ("sana", {"width": 1000}, "multiples of 32"),
        ("ltx-video", {"width": 720}, "multiples of 32"),
        ("wan2.1-1.3b", {"height": 481}, "multiples of 16"),
        ("wan2.1-1.3b", {"frames": 80}, "one and multiples of 4. Nearest: 77 or 81"),
        ("ltx-video", {"frames": 160}, "multiples of 8. Nearest: 153 or 161"),
        ("sdxl", {"frames": 16}, "draws pictures: leave --frames out"),
        ("sdxl", {"steps": 1001}, "steps is 1001; a noise schedule has 1000"),
        ("sdxl", {"width": 4}, "Nearest: 8"),
    ],
)
def test_what_a_model_cannot_take_is_refused(
    model: str, settings: dict[str, int], complaint: str
) -> None:
    with pytest.raises(BadInput, match=complaint):
        scenario_of(resolve(model), ForecastSettings(**settings))  # type: ignore[arg-type]


def test_a_checkpoint_in_one_file_is_forecast_by_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UnknownModel, match="--config FOLDER"):
        resolve(str(file))
    words = ["forecast", str(file), "--config", str(bundled.MODEL), "--lora", "x", "--json", "-"]
    assert _run(words, debug=False) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "LoRA is forecast as fused into the weights, where it costs nothing" in notes


def test_a_revision_of_a_hub_id_is_that_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--mine"
    shutil.copytree(
        bundled.MODEL,
        repository / "snapshots" / "abc123",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    for revision in (None, "main", "abc123", "abc"):
        assert resolve("me/mine", revision=revision).name == "me/mine"
    with pytest.raises(UnknownModel):
        resolve("me/mine", revision="other")
