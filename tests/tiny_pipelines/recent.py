"""The newest families of diffusers, and its modular pipelines, tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from tiny_pipelines import families, images, later, parts, videos
from tiny_pipelines.parts import WIDTH
from tiny_pipelines.relatives import same
from tiny_pipelines.variants import SHORT, Arguments, Variant, clip, drawn, sized


def ltx2() -> DiffusionPipeline:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    layers = 2
    text = {
        "vocab_size": 8,
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 3,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=7
    )
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=layers + 1,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        dropout=0.0,
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )
    return diffusers.LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        audio_vae=audio_vae.eval(),
        text_encoder=Gemma3ForConditionalGeneration(config).eval(),
        tokenizer=parts.word_tokenizer(),
        connectors=connectors.eval(),
        transformer=transformer.eval(),
        vocoder=vocoder.eval(),
        processor=None,
        prompt_enhancer=None,
        duration_head=None,
    )


def ltx2_arguments() -> Arguments:
    return sized(
        32,
        **SHORT,
        num_frames=5,
        frame_rate=25.0,
        guidance_scale=1.5,
        stg_scale=0.0,
        audio_stg_scale=0.0,
        modality_scale=1.0,
        audio_modality_scale=1.0,
        spatio_temporal_guidance_blocks=None,
        use_cross_timestep=False,
    )


def hunyuan_video15() -> DiffusionPipeline:
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=WIDTH,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    config = Qwen2_5_VLTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    )
    second = parts.t5()
    second.resize_token_embeddings(300)
    return diffusers.HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(config).eval(),
        tokenizer=families.chat_tokenizer(1200),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=second.eval(),
        tokenizer_2=ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=2.0),
    )


def wan_animate() -> DiffusionPipeline:
    wan = videos.wan().components
    transformer = diffusers.WanAnimateTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        latent_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        image_dim=4,
        rope_max_seq_len=32,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=4,
        projection_dim=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4,
        intermediate_size=16,
        patch_size=1,
    )
    return diffusers.WanAnimatePipeline(
        tokenizer=wan["tokenizer"],
        text_encoder=wan["text_encoder"],
        vae=wan["vae"],
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        image_processor=CLIPImageProcessor(crop_size=4, size=4),
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        transformer=transformer.eval(),
    )


def _animated() -> Arguments:
    frames = clip(5, 16)
    return sized(
        16,
        **SHORT,
        image=drawn(16),
        pose_video=frames,
        face_video=frames,
        segment_frame_length=5,
        prev_segment_conditioning_frames=1,
        mode="animate",
    )


def cosmos3() -> DiffusionPipeline:
    tokenizer = families.chat_tokenizer(64)
    transformer = diffusers.Cosmos3OmniTransformer(
        head_dim=6,
        hidden_act="relu2",
        hidden_size=6,
        intermediate_size=12,
        latent_channel=16,
        latent_patch_size=1,
        num_attention_heads=1,
        num_hidden_layers=1,
        num_key_value_heads=1,
        patch_latent_dim=16,
        qk_norm_for_text=False,
        rms_norm_eps=1e-5,
        rope_axes_dim=[1, 1, 1],
        vocab_size=64,
    )
    return diffusers.Cosmos3OmniPipeline(
        transformer=transformer.eval(),
        text_tokenizer=tokenizer,
        vae=videos.wan().vae,
        scheduler=diffusers.UniPCMultistepScheduler(),
        sound_tokenizer=None,
        safety_checker=families.Permissive(),
        enable_safety_checker=False,
    )


def _omni() -> Arguments:
    return {
        "negative_prompt": "a cat",
        "height": 16,
        "width": 16,
        "num_frames": 1,
        "output_type": "np",
        "use_system_prompt": False,
        "add_resolution_template": False,
        "add_duration_template": False,
    }


# ---- modular pipelines


def modular(blocks: str, make: Callable[[], DiffusionPipeline]) -> Callable[[], Any]:
    """A pipeline of these blocks with the components of what `make` builds."""

    def build() -> Any:
        pipeline = getattr(diffusers, blocks)().init_pipeline()
        components = make().components
        chosen = {name: components[name] for name in pipeline.component_names if name in components}
        pipeline.update_components(**chosen)
        return pipeline

    return build


def output(name: str, size: int = 32, **more: object) -> Callable[[], Arguments]:
    return lambda: {"height": size, "width": size, "output_type": "np", "output": name, **more}


def _two_transformers() -> DiffusionPipeline:
    wan = videos.wan()
    wan.register_modules(transformer_2=videos.wan().transformer)
    return wan


RECENT: dict[str, Variant] = {
    "ltx2": Variant(ltx2, ltx2_arguments),
    "hunyuan_video15": Variant(hunyuan_video15, lambda: sized(16, num_frames=9)),
    "ltx2_image_to_video": Variant(
        same("LTX2ImageToVideoPipeline", ltx2),
        lambda: {**ltx2_arguments(), "image": drawn(32), "image_crf": 0},
    ),
    "ltx2_condition": Variant(same("LTX2ConditionPipeline", ltx2), ltx2_arguments),
    "wan_animate": Variant(wan_animate, _animated),
    "cosmos3": Variant(cosmos3, _omni),
}
MODULAR: dict[str, Variant] = {
    "modular_sdxl": Variant(modular("StableDiffusionXLAutoBlocks", images.sdxl), output("images")),
    "modular_sd3": Variant(
        modular("StableDiffusion3AutoBlocks", images.sd3), output("images", **SHORT)
    ),
    "modular_flux": Variant(modular("FluxAutoBlocks", images.flux), output("images", **SHORT)),
    "modular_qwenimage": Variant(
        modular("QwenImageAutoBlocks", families.qwenimage), output("images", **SHORT)
    ),
    "modular_z_image": Variant(
        modular("ZImageAutoBlocks", families.z_image), output("images", **SHORT)
    ),
    "modular_flux2_klein": Variant(
        modular("Flux2KleinAutoBlocks", families.flux2_klein),
        output("images", text_encoder_out_layers=(1, 2, 3), **SHORT),
    ),
    "modular_flux_kontext": Variant(
        modular("FluxKontextAutoBlocks", images.flux), output("images", **SHORT)
    ),
    "modular_flux2": Variant(
        modular("Flux2AutoBlocks", later.flux2),
        output("images", text_encoder_out_layers=(1, 2), **SHORT),
    ),
    "modular_flux2_klein_base": Variant(
        modular("Flux2KleinBaseAutoBlocks", families.flux2_klein),
        output("images", text_encoder_out_layers=(1, 2, 3), **SHORT),
    ),
    "modular_ltx2": Variant(
        modular("LTX2AutoBlocks", ltx2), output("videos", num_frames=5, frame_rate=25.0, **SHORT)
    ),
    "modular_hunyuan_video15": Variant(
        modular("HunyuanVideo15AutoBlocks", hunyuan_video15), output("videos", 16, num_frames=9)
    ),
    "modular_wan22": Variant(
        modular("Wan22Blocks", lambda: _two_transformers()),
        output("videos", 16, num_frames=9, **SHORT),
    ),
    "modular_wan": Variant(
        modular("WanBlocks", videos.wan), output("videos", 16, num_frames=9, **SHORT)
    ),
    "modular_ltx": Variant(
        modular("LTXAutoBlocks", videos.ltx), output("videos", num_frames=9, **SHORT)
    ),
}
