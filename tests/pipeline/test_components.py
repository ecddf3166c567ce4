"""What a pipeline holds, also a combined one, and where it computes, also when it is offloaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from halftime.pipeline.components import components_of, denoisers, modules_of, pipelines_of, vae_of
from halftime.pipeline.device import device_of
from halftime.testing import FakeClock, FakePipeline
from tiny_pipelines import PIPELINES


def test_a_combined_pipeline_holds_others_and_each_component_once() -> None:
    pipeline, prior = FakePipeline(FakeClock()), FakePipeline(FakeClock())
    prior.unet, prior.text_encoder = pipeline.unet, pipeline.text_encoder
    pipeline.prior_pipe = prior
    assert pipelines_of(pipeline) == [pipeline, prior]
    named = components_of(pipeline)
    assert list(named) == [
        *("text_encoder", "unet", "vae", "scheduler", "image_processor"),
        *("vae_2", "scheduler_2", "image_processor_2"),
    ]
    assert named["vae_2"] is prior.vae
    assert list(modules_of(pipeline)) == ["text_encoder", "unet", "vae", "vae_2"]


def test_what_a_class_keeps_beside_its_components_is_held_too() -> None:
    """diffusers' SDXL keeps its watermark so, and a user's subclass whatever it likes."""
    pipeline = PIPELINES["sd15"].build()
    registered = set(components_of(pipeline))
    pipeline.watermark = SimpleNamespace(apply_watermark=lambda images: images)
    pipeline._enhancer = nn.Linear(1, 1)
    pipeline.decoder = pipeline.vae.decoder  # its time is within the VAE's
    pipeline.ratio = 3
    assert set(components_of(pipeline)) - registered == {"watermark", "enhancer"}
    assert modules_of(pipeline)["enhancer"] is pipeline._enhancer


def test_the_parts_that_fixes_work_on() -> None:
    pipeline = PIPELINES["sdxl"].build()
    assert denoisers(pipeline) == [pipeline.unet]
    assert vae_of(pipeline) is pipeline.vae
    pipeline.vae = None
    assert vae_of(pipeline) is None


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_an_offloaded_pipeline_computes_where_its_hooks_say(offload: str) -> None:
    pipeline = PIPELINES["sd15"].build()
    assert device_of(pipeline) == torch.device("cpu")
    for module in modules_of(pipeline).values():
        if offload == "group":  # diffusers' own hooks
            config = SimpleNamespace(onload_device=torch.device("cuda", 0))
            hook = SimpleNamespace(config=config)
            module._diffusers_hook = SimpleNamespace(
                hooks={"group_offloading": hook}, get_hook={"group_offloading": hook}.get
            )
        else:  # accelerate's: on the whole module, or on each that has weights
            hooked = module.modules() if offload == "sequential" else [module]
            for part in hooked:
                part._hf_hook = SimpleNamespace(execution_device="cuda:0")
    assert device_of(pipeline) == torch.device("cuda", 0)
    assert next(pipeline.unet.parameters()).device == torch.device("cpu")


def test_a_wrapper_computes_where_its_weights_are() -> None:
    wrapper = SimpleNamespace(components={"unet": nn.Linear(1, 1, device="meta")})
    assert device_of(wrapper) == torch.device("meta")  # type: ignore[arg-type]
    assert device_of(SimpleNamespace(components={})) == torch.device("cpu")  # type: ignore[arg-type]
