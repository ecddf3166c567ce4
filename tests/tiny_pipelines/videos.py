"""Text-to-video and text-to-audio pipelines, tiny."""

from __future__ import annotations

import diffusers
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5TokenizerFast,
)

from tiny_pipelines import parts
from tiny_pipelines.parts import WIDTH

# The sizes of Wan's transformer and of its relatives'.
WAN: dict[str, object] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": WIDTH,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan() -> DiffusionPipeline:
    transformer = diffusers.WanTransformer3DModel(**WAN, freq_dim=256)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return diffusers.WanPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.umt5(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=transformer.eval(),
    )


def cogvideox() -> DiffusionPipeline:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        max_text_seq_length=16,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    return diffusers.CogVideoXPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def ltx() -> DiffusionPipeline:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=WIDTH,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return diffusers.LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        transformer=transformer.eval(),
    )


def mochi() -> DiffusionPipeline:
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    # made by torch.full with no value, so random memory otherwise
    transformer.pos_frequencies.data.zero_()
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return diffusers.MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        transformer=transformer.eval(),
    )


def _clap() -> ClapModel:
    text = ClapTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=37,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=16,
        pad_token_id=0,
    )
    audio = ClapAudioConfig(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        intermediate_size=37,
        depths=[2, 2],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        hidden_size=192,
        projection_dim=16,
        patch_size=2,
        patch_stride=2,
        patch_embed_input_channels=4,
    )
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=16)
    return ClapModel(config).eval()


def audioldm2() -> DiffusionPipeline:
    unet = diffusers.AudioLDM2UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 16, WIDTH], [None, 16, WIDTH]),
    )
    language_model = GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=8, n_positions=99)
    ).eval()
    language_model.config.max_new_tokens = 8
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )
    return diffusers.AudioLDM2Pipeline(
        vae=parts.vae(channels=1),
        text_encoder=_clap(),
        text_encoder_2=parts.t5(),
        projection_model=diffusers.AudioLDM2ProjectionModel(16, WIDTH, 16).eval(),
        language_model=language_model,
        tokenizer=parts.word_tokenizer(kind=RobertaTokenizerFast),
        tokenizer_2=parts.word_tokenizer(kind=T5TokenizerFast),
        feature_extractor=ClapFeatureExtractor(feature_size=64, hop_length=7900),
        unet=unet.eval(),
        scheduler=parts.ddim(),
        vocoder=vocoder.eval(),
    )
