"""More text-to-video families, and one text-to-audio, tiny."""

from __future__ import annotations

import diffusers
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from transformers import LlamaConfig, LlamaModel, T5TokenizerFast

from tiny_pipelines import parts, videos
from tiny_pipelines.parts import WIDTH


def latte() -> DiffusionPipeline:
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    return diffusers.LattePipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(),
        transformer=transformer.eval(),
        scheduler=parts.ddim(),
    )


def allegro() -> DiffusionPipeline:
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=WIDTH,
    )
    vae = diffusers.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    vae.enable_tiling()  # it decodes in tiles only, and leaves out what is smaller than one
    vae.kernel, vae.stride = (8, 16, 16), (4, 8, 8)
    vae.tile_overlap_t, vae.tile_overlap_h, vae.tile_overlap_w = 4, 8, 8
    return diffusers.AllegroPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=diffusers.EulerAncestralDiscreteScheduler(),
    )


def hunyuan_vae() -> diffusers.AutoencoderKLHunyuanVideo:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    ).eval()


def hunyuan_video() -> DiffusionPipeline:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(2, 4, 4),
    )
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    return diffusers.HunyuanVideoPipeline(
        text_encoder=LlamaModel(config).eval(),
        tokenizer=parts.word_tokenizer(64),
        transformer=transformer.eval(),
        vae=hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=parts.clip_text(),
        tokenizer_2=parts.clip_tokenizer(),
    )


def sana_video() -> DiffusionPipeline:
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        rope_max_seq_len=32,
    )
    wan = videos.wan().components
    return diffusers.SanaVideoPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.gemma(),
        vae=wan["vae"],
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def text_to_video_sd() -> DiffusionPipeline:
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    return diffusers.TextToVideoSDPipeline(
        vae=parts.vae(),
        text_encoder=parts.clip_text(),
        tokenizer=parts.clip_tokenizer(),
        unet=unet.eval(),
        scheduler=parts.ddim(),
    )


def stable_audio() -> DiffusionPipeline:
    transformer = diffusers.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=2,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
        num_attention_heads=4,
    )
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        channel_multiples=[3, 3],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        sampling_rate=4,
    )
    projection = diffusers.StableAudioProjectionModel(
        WIDTH, conditioning_dim=4, min_value=0, max_value=32
    )
    return diffusers.StableAudioPipeline(
        vae=vae.eval(),
        text_encoder=parts.t5(),
        projection_model=projection.eval(),
        tokenizer=parts.word_tokenizer(kind=T5TokenizerFast),
        transformer=transformer.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(),
    )
