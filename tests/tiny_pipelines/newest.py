"""Qwen-Image 2.1, Kandinsky 6 and others whose models are built nowhere else, tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tiny_pipelines import families, images, later, more_videos, parts, recent, videos
from tiny_pipelines.parts import WIDTH
from tiny_pipelines.relatives import changed, same
from tiny_pipelines.variants import SHORT, Arguments, Variant, drawn, pictured, sized


class TextProcessor:
    """A vision-language processor that is given texts alone, and so needs no torchvision."""

    def __init__(self) -> None:
        self.tokenizer: Any = families.chat_tokenizer(64)
        self.tokenizer.add_tokens(["<|image_pad|>"], special_tokens=True)

    def __call__(self, text: list[str], **options: object) -> Any:
        return self.tokenizer(text, **options)

    def apply_chat_template(self, messages: object, **options: object) -> list[list[int]]:
        return [[0, 1, 2]]


class ChatProcessor(TextProcessor):
    """One whose template is what the user said."""

    def apply_chat_template(self, messages: Any, **options: object) -> Any:
        return messages[-1]["content"][0]["text"]


def _qwen3_vl() -> Qwen3VLForConditionalGeneration:
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 9,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default"},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=8)
    return Qwen3VLForConditionalGeneration(config).eval()


def qwenimage21() -> DiffusionPipeline:
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=_qwen3_vl(),
        processor=TextProcessor(),
        transformer=transformer.eval(),
    )


def nucleusmoe() -> DiffusionPipeline:
    """Its first block is dense, its second routes to experts."""
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        dense_moe_strategy="leave_first_block_dense",
        num_experts=2,
        moe_intermediate_dim=32,
        capacity_factors=1.0,
    )
    for name, weight in transformer.named_parameters():
        if ".experts." in name:  # diffusers leaves them to a checkpoint
            nn.init.normal_(weight, std=0.1)
    pipeline = diffusers.NucleusMoEImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=families.qwenimage().vae,
        text_encoder=_qwen3_vl(),
        processor=ChatProcessor(),
        transformer=transformer.eval(),
    )
    pipeline.default_return_index = -1  # its text encoder has no eight layers
    return pipeline


def kandinsky6() -> DiffusionPipeline:
    parts_of_5 = later.kandinsky5_image().components
    transformer = diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=32,
        model_dim=64,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(8, 12, 12),
    )
    return diffusers.Kandinsky6TI2VAPipeline(
        **{
            **parts_of_5,
            "transformer": transformer.eval(),
            "vae": more_videos.hunyuan_vae(),
            "tokenizer": families.chat_tokenizer(1200),
        }
    )


def _adapter() -> diffusers.T2IAdapter:
    return diffusers.T2IAdapter(
        in_channels=3,
        channels=[32, 64],
        num_res_blocks=1,
        downscale_factor=2,
        adapter_type="full_adapter",
    ).eval()


def _adaptable(make: Callable[[], DiffusionPipeline]) -> Callable[[], Any]:
    """Its UNet with attention in the first block, where adapters add their features."""
    return lambda: changed(
        make().unet,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def _guided() -> Arguments:
    return pictured(32)


def _skyreels() -> diffusers.SkyReelsV2Transformer3DModel:
    return diffusers.SkyReelsV2Transformer3DModel(
        **{**videos.WAN, "in_channels": 36, "image_dim": WIDTH, "added_kv_proj_dim": 24}
    )


def _picture_processor() -> object:
    size = {"height": 32, "width": 32}
    return parts.picture_processor(size=size, crop_size=size)


def _unchecked_cosmos3() -> Any:
    pipeline = recent.modular("Cosmos3OmniBlocks", recent.cosmos3)()
    pipeline.disable_safety_checker()
    return pipeline


NEWEST: dict[str, Variant] = {
    "qwenimage21": Variant(qwenimage21, lambda: sized(32, true_cfg_scale=2.0, negative_prompt="a")),
    "nucleusmoe": Variant(nucleusmoe, lambda: sized(32, **SHORT)),
    "kandinsky6": Variant(kandinsky6, lambda: sized(32, **SHORT, num_frames=5, sample_audio=False)),
    "sd15_adapter": Variant(
        same(
            "StableDiffusionAdapterPipeline",
            images.sd15,
            adapter=_adapter,
            unet=_adaptable(images.sd15),
        ),
        _guided,
    ),
    "sdxl_adapter": Variant(
        same(
            "StableDiffusionXLAdapterPipeline",
            images.sdxl,
            adapter=_adapter,
            unet=_adaptable(images.sdxl),
        ),
        _guided,
    ),
    "cogvideox_image_to_video": Variant(
        same(
            "CogVideoXImageToVideoPipeline",
            videos.cogvideox,
            transformer=lambda: changed(videos.cogvideox().transformer, in_channels=8),
        ),
        lambda: sized(16, **SHORT, num_frames=8, image=drawn(16)),
    ),
    "skyreels_v2_image_to_video": Variant(
        same(
            "SkyReelsV2ImageToVideoPipeline",
            later.skyreels_v2,
            transformer=_skyreels,
            image_encoder=parts.clip_vision,
            image_processor=_picture_processor,
        ),
        lambda: sized(16, max_sequence_length=512, num_frames=9, image=drawn(16)),
    ),
    "ltx2_in_context": Variant(same("LTX2InContextPipeline", recent.ltx2), recent.ltx2_arguments),
    "prx_pixel": Variant(
        same(
            "PRXPixelPipeline",
            later.prx,
            transformer=lambda: changed(later.prx().transformer, in_channels=3),
        ),
        lambda: sized(32, use_resolution_binning=False),
    ),
    "modular_cosmos3": Variant(_unchecked_cosmos3, recent.output("videos", 16, num_frames=1)),
    "modular_qwenimage21": Variant(
        recent.modular("QwenImage21AutoBlocks", qwenimage21), recent.output("images")
    ),
}
