"""In what state a pipeline is. peft, accelerate and the quantisers are faked by what is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from halftime.pipeline.state import Adapter, PipelineState, quantised_by, state_of
from tiny_pipelines import PIPELINES


@pytest.fixture
def pipeline() -> DiffusionPipeline:
    return PIPELINES["sd15"].build()


def test_a_pipeline_as_it_was_published_is_plain(pipeline: DiffusionPipeline) -> None:
    assert state_of(pipeline) == PipelineState()
    assert state_of(pipeline).plain


class BaseTunerLayer(nn.Module):
    """A layer of the model with an adapter around it, as peft makes one."""

    def __init__(self, active: list[str], merged: list[str], disabled: bool = False) -> None:
        super().__init__()
        self.active_adapters, self.merged_adapters = active, merged
        self.disable_adapters = disabled


def test_adapters_are_seen_loaded_active_and_fused(pipeline: DiffusionPipeline) -> None:
    pipeline.unet._hf_peft_config_loaded = pipeline.text_encoder._hf_peft_config_loaded = True
    pipeline.unet.peft_config = {"style": None, "face": None}
    pipeline.text_encoder.peft_config = {"style": None}
    pipeline.unet.mid_block.adapted = BaseTunerLayer(["style"], ["face"])
    state = state_of(pipeline)
    assert state.adapters == (
        Adapter("style", ("text_encoder", "unet"), active=True, fused=False),
        Adapter("face", ("unet",), active=False, fused=True),
    )
    assert state.fused == ("face",)
    pipeline.unet.mid_block.adapted = BaseTunerLayer(["style"], [], disabled=True)
    assert not any(adapter.active for adapter in state_of(pipeline).adapters)


def test_an_adapter_fused_and_unloaded_is_still_in_the_weights(pipeline: DiffusionPipeline) -> None:
    pipeline._merged_adapters = {"style"}
    state = state_of(pipeline)
    assert (state.adapters, state.fused, state.plain) == ((), ("style",), False)


class CpuOffload:
    """accelerate's hook of enable_model_cpu_offload."""


class AlignDevicesHook:
    """accelerate's hook of enable_sequential_cpu_offload, and of a device map."""

    def __init__(self, offload: bool) -> None:
        self.offload = offload


def test_offloading_is_told_apart(pipeline: DiffusionPipeline) -> None:
    pipeline.vae._hf_hook = CpuOffload()
    pipeline.unet.conv_in._hf_hook = SimpleNamespace(hooks=[AlignDevicesHook(offload=True)])
    pipeline.text_encoder._hf_hook = AlignDevicesHook(offload=False)
    assert dict(state_of(pipeline).offloading) == {
        "vae": "model",
        "unet": "sequential",
        "text_encoder": "device map",
    }


def test_hooks_of_diffusers_itself_are_seen(pipeline: DiffusionPipeline) -> None:
    from diffusers.hooks import apply_group_offloading, apply_layerwise_casting

    cpu = torch.device("cpu")
    apply_group_offloading(
        pipeline.unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
    )
    apply_layerwise_casting(pipeline.vae, storage_dtype=torch.float16, compute_dtype=torch.float32)
    state = state_of(pipeline)
    assert dict(state.offloading) == {"unet": "group"}
    assert state.layerwise_casting == ("vae",)
    assert ("unet", "lazy_prefetch_group_offloading") not in state.hooks or state.hooks
    flux = PIPELINES["flux"].build()
    from diffusers import FirstBlockCacheConfig

    flux.transformer.enable_cache(FirstBlockCacheConfig())
    assert {name for name, _ in state_of(flux).hooks} == {"transformer"}


def test_weights_without_values_are_seen(pipeline: DiffusionPipeline) -> None:
    pipeline.vae.to("meta")
    assert state_of(pipeline).meta == ("vae",)


@pytest.mark.parametrize(
    ("name", "module", "library"),
    [
        ("Params4bit", "bitsandbytes.nn.modules", "bitsandbytes"),
        ("Int8Params", "bitsandbytes.nn.modules", "bitsandbytes"),
        ("GGUFParameter", "diffusers.quantizers.gguf.utils", "gguf"),
        ("WeightQBytesTensor", "optimum.quanto.tensor.weights.qbytes", "quanto"),
        ("Int8Tensor", "torchao.quantization.quantize_.workflows", "torchao"),
    ],
)
def test_quantised_weights_are_known_by_their_type(
    name: str, module: str, library: str, pipeline: DiffusionPipeline
) -> None:
    kind = type(name, (nn.Parameter,), {"__module__": module})
    weight = torch.zeros(2).as_subclass(kind)
    pipeline.unet.conv_in.register_parameter("weight", None)
    pipeline.unet.conv_in._parameters["weight"] = weight
    assert state_of(pipeline).quantised == (("unet", library),)


def test_quantised_layers_are_known_by_their_type() -> None:
    layer = type("QLinear", (nn.Module,), {"__module__": "optimum.quanto.nn.qlinear"})()
    assert quantised_by(nn.Sequential(layer)) == "quanto"
    assert quantised_by(nn.Sequential(nn.Linear(1, 1))) is None


def test_an_image_prompt_adapter_is_seen(pipeline: DiffusionPipeline) -> None:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    block = pipeline.unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn2.processor = IPAdapterAttnProcessor2_0(hidden_size=4, cross_attention_dim=4)
    assert state_of(pipeline).ip_adapters == ("unet",)


def test_a_compiled_component_is_seen(pipeline: DiffusionPipeline) -> None:
    pipeline.unet.compile(backend="eager")
    assert state_of(pipeline).compiled == ("unet",)


def test_what_another_pipeline_holds_too_is_shared(pipeline: DiffusionPipeline) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    other = StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    assert {"unet", "vae", "text_encoder"} <= {*state_of(pipeline).shared}
    other.unet = None
    assert "unet" not in state_of(pipeline).shared
    del other
    assert state_of(pipeline).shared == ()


def test_one_module_under_two_names_is_repeated() -> None:
    pipeline = PIPELINES["sdxl"].build()
    pipeline.text_encoder = pipeline.text_encoder_2
    assert state_of(pipeline).repeated == ("text_encoder_2",)
