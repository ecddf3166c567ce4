"""Loading pipelines, and naming their stages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from halftime.base.errors import BadWorkload, UnknownDevice, UnknownModel
from halftime.pipeline.device import checked_device
from halftime.pipeline.load import load, scheduler_named
from halftime.records import Workload
from halftime.records.stages import place_of
from tiny_pipelines import PIPELINES


@pytest.mark.parametrize(
    ("component", "stage"),
    [
        ("text_encoder_2", "encode_prompt"),
        ("prior_text_encoder", "encode_prompt"),
        ("tokenizer_3", "encode_prompt"),
        ("prior_prior", "denoise"),
        ("transformer_2", "denoise"),
        ("controlnet", "denoise"),
        ("decoder_scheduler", "denoise"),
        ("vqgan", "vae_decode"),
        ("safety_checker", "postprocess"),
        ("mask_processor", "postprocess"),
    ],
)
def test_components_have_stages_by_name(component: str, stage: str) -> None:
    place = place_of(component)
    assert place is not None
    assert place.stage == stage


def test_unknown_components_have_none() -> None:
    assert place_of("flux_capacitor") is None


def test_a_folder_that_save_pretrained_wrote(tmp_path: Path) -> None:
    PIPELINES["pixart_sigma"].build().save_pretrained(tmp_path / "model")
    assert (
        type(load(str(tmp_path / "model"), Workload()).pipeline).__name__ == "PixArtSigmaPipeline"
    )


def test_a_folder_with_a_component_of_the_users_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(
        index.read_text().replace(
            '"diffusers",\n    "DDIMScheduler"', '"mine",\n    "DDIMScheduler"'
        )
    )
    with pytest.raises(
        UnknownModel, match=r"holds a component of your own: mine is not one .* as module:function"
    ):
        load(str(tmp_path), Workload())
    assert "Loading" not in capfd.readouterr().err


def test_a_function_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypipes.py").write_text(
        "from tiny_pipelines import PIPELINES\nmake = PIPELINES['sd15'].build\nanswer = "
        "42\ndef wrong(): return 42\n"
        "def needs(size, *more, dtype=None): return 42\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    loaded = load("mypipes:make", Workload(scheduler="DPMSolverMultistep", dtype="bfloat16"))
    assert type(loaded.pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert loaded.pipeline.unet.dtype == torch.bfloat16
    assert sys.path == before
    for spec, complaint in (
        ("mypipes:nothing", "has no function"),
        ("mypipes:answer", "has no function"),
        ("mypipes:mak", "Did you mean 'make'"),
        ("mypipes:needs", "needs size, and is called without arguments"),
        ("mypipes:wrong", "returned int"),
        ("nomodule:f", "cannot import"),
    ):
        with pytest.raises(UnknownModel, match=complaint):
            load(spec, Workload())


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model_index\.json"):
        load(str(tmp_path), Workload())
    with pytest.raises(UnknownModel, match="is not a model"):
        load("surely not a model", Workload())
    with pytest.raises(UnknownModel, match="no such folder"):
        load("./nowhere", Workload())
    with pytest.raises(UnknownModel, match="the hub did not give it"):
        load("nobody/nothing", Workload())


@pytest.mark.parametrize("device", ["cuda:7", "abacus", "tpu"])
def test_devices_that_are_not_here(device: str) -> None:
    with pytest.raises(UnknownDevice, match=r"Available: cpu"):
        checked_device(device)


def test_a_scheduler_that_is_none() -> None:
    with pytest.raises(BadWorkload, match="'Fast' is not in diffusers"):
        scheduler_named("Fast", PIPELINES["sd15"].build())
