"""Loading from files as people have them: variants, one checkpoint, LoRA, modular, own code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from halftime.base.errors import BadFile, BadInput, BadWorkload, MissingExtra, UnknownModel
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.load import load
from halftime.pipeline.pretrained import parse_lora
from halftime.records import Workload
from tiny_pipelines import BREADTH, PIPELINES
from tiny_pipelines.checkpoint import save_checkpoint

WORK = {"steps": 1, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, its fp16 variant, a checkpoint in one file, a LoRA, a pipeline's own code."""
    folder = tmp_path_factory.mktemp("files")
    pipeline = PIPELINES["sd15"].build()
    pipeline.save_pretrained(folder / "plain")
    pipeline.save_pretrained(folder / "half", variant="fp16")
    save_checkpoint(pipeline, folder / "one.safetensors")
    pipeline.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    )
    state = get_peft_model_state_dict(pipeline.unet)
    moved = {name: torch.full_like(weight, 0.3) for name, weight in state.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=moved)
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "lora.safetensors")
    (folder / "mine.py").write_text(
        "from diffusers import StableDiffusionPipeline\n"
        "class Mine(StableDiffusionPipeline):\n"
        "    def __call__(self, *args, **kwargs):\n"
        "        return super().__call__(*args, **kwargs)\n"
    )
    return folder


def drawn(model: str, **fields: object) -> np.ndarray:
    workload = Workload(**WORK, **fields)  # type: ignore[arg-type]
    pipeline = load(model, workload).pipeline
    with torch.no_grad():
        return pipeline(**call_arguments(pipeline, workload), output_type="np").images


def test_a_folder_with_a_variant_alone_says_so(files: Path) -> None:
    with pytest.raises(
        UnknownModel, match=r"holds weights of the variant 'fp16' alone .* Add --variant fp16"
    ):
        load(str(files / "half"), Workload())
    loaded = load(str(files / "half"), Workload(variant="fp16", dtype="bfloat16"))
    assert loaded.pipeline.unet.dtype == torch.bfloat16
    with pytest.raises(UnknownModel, match="no weights of the variant 'bf16'; it has: fp16"):
        load(str(files / "half"), Workload(variant="bf16"))


def test_the_dtype_is_that_of_loading_and_no_cast(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model keeps in float32 stays there, and nothing is held twice."""
    seen = []
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "to", lambda self, *goals: seen.append(goals) or self
    )
    loaded = load(str(files / "plain"), Workload(dtype="bfloat16"))
    assert loaded.pipeline.unet.dtype == torch.bfloat16
    assert seen == [(torch.device("cpu"),)]


def test_one_checkpoint_is_the_pipeline_that_it_was_saved_from(files: Path) -> None:
    config = str(files / "plain")
    np.testing.assert_array_equal(
        drawn(str(files / "one.safetensors"), config=config), drawn(str(files / "plain"))
    )
    loaded = load(str(files / "one.safetensors"), Workload(config=config, dtype="bfloat16"))
    assert {part.dtype for part in (loaded.pipeline.unet, loaded.pipeline.vae)} == {torch.bfloat16}


def test_one_checkpoint_alone_names_what_it_lacks(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str) -> None:
        assert name == "stable-diffusion-v1-5/stable-diffusion-v1-5"  # by the shapes of its weights
        raise OSError("no connection.")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", offline)
    model = str(files / "one.safetensors")
    with pytest.raises(
        UnknownModel, match=r"look like stable-diffusion-v1-5/.*\(no connection\).*--config FOLDER"
    ):
        load(model, Workload())
    with pytest.raises(UnknownModel, match=r"no readable model_index\.json"):
        load(model, Workload(config=str(files)))
    with pytest.raises(UnknownModel, match="there is no file"):
        load(str(files / "none.safetensors"), Workload())
    index = json.loads((files / "plain" / "model_index.json").read_text())
    (files / "odd").mkdir(exist_ok=True)
    (files / "odd" / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "DDPMPipeline"})
    )
    with pytest.raises(UnknownModel, match="loads that class from folders alone"):
        load(model, Workload(config=str(files / "odd")))


def test_lora_changes_pictures_by_its_weight(files: Path) -> None:
    model, lora = str(files / "plain"), str(files / "lora.safetensors")
    plain = drawn(model)
    full, half = drawn(model, lora=(lora,)), drawn(model, lora=(f"{lora}:0.5",))
    assert np.abs(full - plain).max() > np.abs(half - plain).max() > 0
    np.testing.assert_array_equal(drawn(model, lora=(f"{lora}:0",)), plain)
    np.testing.assert_allclose(drawn(model, lora=(f"{lora}:0.2", f"{lora}:0.3")), half, atol=1e-4)
    notes = load(model, Workload(lora=(f"{lora}:0.5",))).notes
    assert notes == (f"LoRA {lora} at weight 0.5",)


def test_lora_that_is_none(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(files / "plain")
    with pytest.raises(BadFile, match=r"there is no LoRA file nowhere\. Write --lora FILE"):
        load(model, Workload(lora=("nowhere",)))
    with pytest.raises(BadFile, match="is no LoRA that StableDiffusionPipeline can take: Invalid"):
        load(model, Workload(lora=(str(files / "one.safetensors"),)))
    with pytest.raises(BadInput, match="takes no LoRA"):
        load(f"{__name__}:unconditional", Workload(lora=("x",)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"--lora needs .*'peft'.*install 'halftime\[lora\]'"):
        load(model, Workload(lora=("x",)))


def unconditional() -> object:
    return BREADTH["ddpm"].build()


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0)),
        (r"C:\loras\a.safetensors:-1", (r"C:\loras\a.safetensors", -1.0)),
    ],
)
def test_a_lora_and_its_weight(spec: str, parsed: tuple[str, float]) -> None:
    assert parse_lora(spec) == parsed


def test_code_of_ones_own_for_a_folder(files: Path) -> None:
    model = str(files / "plain")
    loaded = load(model, Workload(custom_pipeline=str(files / "mine.py")))
    assert type(loaded.pipeline).__name__ == "Mine"
    assert "num_inference_steps" in call_arguments(loaded.pipeline, Workload())


def test_a_modular_pipeline_is_loaded_and_called(tmp_path: Path) -> None:
    BREADTH["modular_sdxl"].build().save_pretrained(
        str(tmp_path / "blocks"), overwrite_modular_index=True
    )
    workload = Workload(**WORK, scheduler="DDIM", dtype="bfloat16")  # type: ignore[arg-type]
    pipeline = load(str(tmp_path / "blocks"), workload).pipeline
    assert type(pipeline).__name__ == "StableDiffusionXLModularPipeline"
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    assert pipeline.unet.dtype == torch.bfloat16
    arguments = call_arguments(pipeline, workload)
    assert {"prompt", "num_inference_steps", "generator", "output"} <= set(arguments)
    assert pipeline(**arguments)[0].size == (32, 32)
    with pytest.raises(BadWorkload, match=r"takes no nope"):
        call_arguments(pipeline, Workload(arguments={"nope": 1}))
    with pytest.raises(BadWorkload, match=r"takes no guidance_scale\. Its guider holds it"):
        call_arguments(pipeline, Workload(guidance=5.0))
    (tmp_path / "blocks" / "unet" / "config.json").unlink()
    with pytest.raises(UnknownModel, match="its unet could not"):
        load(str(tmp_path / "blocks"), workload)


@pytest.mark.parametrize(
    ("model", "fields", "complaint"),
    [
        (None, {"variant": "fp16"}, "--variant says nothing about the bundled model"),
        ("plain", {"revision": "main"}, "--revision says nothing about a folder"),
        ("plain", {"config": "x"}, "--config says nothing about a folder"),
        ("one.safetensors", {"custom_pipeline": "x"}, "--custom-pipeline says nothing about a ch"),
        (f"{__name__}:unconditional", {"revision": "x"}, "about what a function returns"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    files: Path, model: str | None, fields: dict[str, str], complaint: str
) -> None:
    name = str(files / model) if model and (files / model).exists() else model
    with pytest.raises(BadWorkload, match=complaint):
        load(name, Workload(**fields))  # type: ignore[arg-type]


def test_a_package_that_loading_needs_is_named(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fails)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    with pytest.raises(UnknownModel, match=r"'accelerate' is not installed, .* install accelerate"):
        load(str(files / "plain"), Workload())


def test_versions_that_do_not_go_together_are_named(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AttributeError("'CLIPTextModel' object has no attribute 'text_model'")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fails)
    with pytest.raises(UnknownModel, match=r"pip install 'diffusers>=0.39'"):
        load(str(files / "plain"), Workload())
