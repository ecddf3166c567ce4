"""More text-to-image families, tiny."""

from __future__ import annotations

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import (
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tiny_pipelines import parts, videos
from tiny_pipelines.parts import WIDTH

_CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def plain_vae(latents: int = 4) -> diffusers.AutoencoderKL:
    return parts.vae(latents, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609)


def chat_tokenizer(max_length: int = 64) -> object:
    tokenizer = parts.word_tokenizer(max_length, kind=Qwen2Tokenizer)
    tokenizer.chat_template = _CHAT
    return tokenizer


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    """A vision-language model of which the pipelines use the text half."""
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 8,
        "rope_scaling": {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=5,
        vision_end_token_id=6,
        image_token_id=7,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return Qwen3Model(config).eval()


def chroma() -> DiffusionPipeline:
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=plain_vae(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        transformer=transformer.eval(),
    )


def qwenimage() -> DiffusionPipeline:
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=qwen_vl(),
        tokenizer=chat_tokenizer(),
        transformer=transformer.eval(),
    )


def hidream() -> DiffusionPipeline:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    pipeline = diffusers.HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=plain_vae(),
        text_encoder=parts.clip_text_projected(),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.clip_text_projected(),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.word_tokenizer(),
        text_encoder_4=LlamaForCausalLM(config).eval(),
        tokenizer_4=parts.word_tokenizer(),
        transformer=transformer.eval(),
    )
    pipeline.default_sample_size = 16  # it draws this area whatever the height and width
    return pipeline


def cogview3() -> DiffusionPipeline:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return diffusers.CogView3PlusPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(),
        transformer=transformer.eval(),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def cogview4() -> DiffusionPipeline:
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
        rope_axes_dim=(32, 32),
    )
    config = GlmConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
    )
    return diffusers.CogView4Pipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=GlmModel(config).eval(),
        vae=parts.vae(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )


def lumina() -> DiffusionPipeline:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    return diffusers.LuminaPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(),
        text_encoder=parts.gemma(),
        tokenizer=parts.word_tokenizer(),
    )


def dit() -> DiffusionPipeline:
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=16,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(
        transformer=transformer.eval(), vae=parts.vae(), scheduler=parts.ddim()
    )


def kandinsky3() -> DiffusionPipeline:
    unet = diffusers.Kandinsky3UNet(
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=WIDTH,
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        num_vq_embeddings=12,
        norm_type="spatial",
        vq_embed_dim=4,
    )
    return diffusers.Kandinsky3Pipeline(
        unet=unet.eval(),
        scheduler=diffusers.DDPMScheduler(),
        movq=movq.eval(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
    )


def z_image() -> DiffusionPipeline:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        token.data.fill_(1.0)  # torch.empty in diffusers: random memory otherwise
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=plain_vae(16),
        text_encoder=qwen3(),
        tokenizer=chat_tokenizer(),
        transformer=transformer.eval(),
    )


def ovis_image() -> DiffusionPipeline:
    transformer = diffusers.OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=plain_vae(),
        text_encoder=qwen3(),
        tokenizer=chat_tokenizer(),
        transformer=transformer.eval(),
    )


def bria() -> DiffusionPipeline:
    transformer = diffusers.BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[0, 8, 8],
    )
    return diffusers.BriaPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=plain_vae(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
    )


def flux2_klein() -> DiffusionPipeline:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=256,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
    )
    config = Qwen3Config(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=Qwen3ForCausalLM(config).eval(),
        tokenizer=chat_tokenizer(),
        transformer=transformer.eval(),
    )


def deepfloyd_if() -> DiffusionPipeline:
    unet = parts.unet(
        3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        encoder_hid_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range", beta_schedule="squaredcos_cap_v2"
    )
    return diffusers.IFPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


class Permissive(nn.Module):
    """In place of the guardrail package's safety checker, whose weights are on a hub."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: object) -> object:
        return video


def cosmos_transformer(channels: int, **more: object) -> diffusers.CosmosTransformer3DModel:
    return diffusers.CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        concat_padding_mask=False,  # the released models have it, but it needs torchvision
        **more,
    )


def cosmos2_text_to_image() -> DiffusionPipeline:
    transformer = cosmos_transformer(16, extra_pos_embed_type=None)
    return diffusers.Cosmos2TextToImagePipeline(
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        transformer=transformer.eval(),
        vae=videos.wan().vae,
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=Permissive(),
    )
