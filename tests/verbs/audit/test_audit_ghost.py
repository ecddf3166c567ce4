"""Real geometry without weights: a folder of configurations is enough, and the golden count
holds."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

import halftime
from halftime.base.errors import BadWorkload, UnknownModel
from halftime.records import Workload
from halftime.verbs.audit.ghost import ghost_pipeline, load_ghost


@pytest.fixture
def cogvideox_2b(tmp_path: Path) -> Path:
    """Configurations of CogVideoX-2b as published: diffusers' defaults and T5-XXL's encoder."""
    with torch.device("meta"):
        diffusers.CogVideoXTransformer3DModel().save_config(tmp_path / "transformer")
        diffusers.AutoencoderKLCogVideoX().save_config(tmp_path / "vae")
    transformers.T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    ).save_pretrained(tmp_path / "text_encoder")
    diffusers.CogVideoXDDIMScheduler().save_config(tmp_path / "scheduler")
    index = {
        "_class_name": "CogVideoXPipeline",
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.slow
def test_cogvideox_2b_waits_79_times_in_its_real_geometry(cogvideox_2b: Path) -> None:
    pipeline = ghost_pipeline(cogvideox_2b)
    assert sum(weight.numel() for weight in pipeline.transformer.parameters()) > 1.5e9
    found = halftime.audit(pipeline, Workload(steps=20), use_dynamic_cfg=True, output_type="latent")
    assert (found.in_loop_total, found.in_loop_d2h, found.in_loop_h2d) == (79, 79, 0)
    assert all(weight.device.type == "meta" for weight in pipeline.transformer.parameters())


def test_a_folder_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model_index\.json"):
        ghost_pipeline(tmp_path)


@pytest.mark.parametrize(
    "source",
    [{"lora": ("a",)}, {"variant": "fp16"}, {"revision": "main"}, {"custom_pipeline": "mine.py"}],
)
def test_what_says_nothing_without_weights_is_refused(source: dict[str, str]) -> None:
    option = next(iter(source)).replace("_", "-")
    with pytest.raises(BadWorkload, match=f"--{option} .* reads no weights"):
        load_ghost(None, Workload(**source))  # type: ignore[arg-type]


def test_the_geometry_has_the_dtype_asked_for() -> None:
    pipeline = load_ghost(None, Workload(dtype="bfloat16")).pipeline
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.bfloat16


@pytest.mark.slow
def test_sdxl_is_audited_from_configurations_alone(tmp_path: Path) -> None:
    from tiny_pipelines import PIPELINES

    tiny = PIPELINES["sdxl"].build()
    for name in ("text_encoder", "text_encoder_2", "vae", "unet"):
        component = getattr(tiny, name)
        save = (
            component.save_config
            if hasattr(component, "save_config")
            else component.config.save_pretrained
        )
        save(tmp_path / name)
    tiny.scheduler.save_config(tmp_path / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        **{
            name: ["diffusers", kind]
            for name, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"))
        },
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = halftime.audit(ghost_pipeline(tmp_path), Workload(steps=4))
    assert found.capturable
    assert found.steps_seen == 4
