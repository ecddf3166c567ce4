"""Families that came later, or stand alone, tiny."""

from __future__ import annotations

import diffusers
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from transformers import CLIPImageProcessor

from tiny_pipelines import families, more_videos, parts, videos
from tiny_pipelines.parts import WIDTH
from tiny_pipelines.relatives import changed, same


def _wan_transformer(**changes: object) -> diffusers.WanTransformer3DModel:
    return changed(videos.wan().transformer, **changes)


wan_image_to_video = same(
    "WanImageToVideoPipeline", videos.wan, transformer=lambda: _wan_transformer(in_channels=36)
)
wan_video_to_video = same(
    "WanVideoToVideoPipeline",
    videos.wan,
    scheduler=lambda: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
)
wan_vace = same(
    "WanVACEPipeline",
    videos.wan,
    transformer=lambda: diffusers.WanVACETransformer3DModel(**videos.WAN, vace_layers=[0]),
)
lucy_edit = same(
    "LucyEditPipeline", videos.wan, transformer=lambda: _wan_transformer(in_channels=32)
)
skyreels_v2 = same(
    "SkyReelsV2Pipeline",
    videos.wan,
    transformer=lambda: diffusers.SkyReelsV2Transformer3DModel(**videos.WAN),
    scheduler=lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction"
    ),
)
anyflow = same(
    "AnyFlowPipeline",
    videos.wan,
    transformer=lambda: diffusers.AnyFlowTransformer3DModel(**videos.WAN),
    scheduler=lambda: diffusers.FlowMapEulerDiscreteScheduler(),
)


def cosmos_text_to_world() -> DiffusionPipeline:
    transformer = families.cosmos_transformer(4)
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=2,
        patch_size=4,
    )
    return diffusers.CosmosTextToWorldPipeline(
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5),
        safety_checker=families.Permissive(),
    )


def stable_video_diffusion() -> DiffusionPipeline:
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=WIDTH,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=parts.clip_vision(224),
        unet=unet.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            sigma_min=0.002,
            sigma_max=700.0,
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(),
    )


def stable_unclip() -> DiffusionPipeline:
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=WIDTH, num_layers=1
    )
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=parts.clip_tokenizer(),
        prior_text_encoder=parts.clip_text_projected(),
        prior=prior.eval(),
        prior_scheduler=diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=parts.clip_tokenizer(),
        text_encoder=parts.clip_text(),
        unet=parts.unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH
        ),
        scheduler=parts.ddim(),
        vae=parts.vae(),
    )


def ldm_text_to_image() -> DiffusionPipeline:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    config = LDMBertConfig(
        vocab_size=60,
        encoder_layers=1,
        encoder_ffn_dim=37,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=WIDTH,
    )
    return diffusers.LDMTextToImagePipeline(
        vqvae=parts.vae(),
        bert=LDMBertModel(config).eval(),
        tokenizer=parts.clip_tokenizer(),
        unet=parts.unet(),
        scheduler=parts.ddim(),
    )


def longcat_image() -> DiffusionPipeline:
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    tokenizer = families.chat_tokenizer()
    return diffusers.LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=families.plain_vae(16),
        text_encoder=families.qwen_vl(),
        tokenizer=tokenizer,
        text_processor=tokenizer,
        transformer=transformer.eval(),
    )


def prx() -> DiffusionPipeline:
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=WIDTH,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    return diffusers.PRXPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=parts.t5(),
        tokenizer=parts.word_tokenizer(),
        vae=families.plain_vae(),
        default_sample_size=32,
    )


def _chronoedit_transformer() -> diffusers.ChronoEditTransformer3DModel:
    return diffusers.ChronoEditTransformer3DModel(
        **{**videos.WAN, "in_channels": 36}, image_dim=WIDTH, added_kv_proj_dim=24
    )


chronoedit = same(
    "ChronoEditPipeline",
    videos.wan,
    transformer=_chronoedit_transformer,
    image_encoder=lambda: parts.clip_vision(224).vision_model,
    image_processor=lambda: CLIPImageProcessor(),
)


def kandinsky5_image() -> DiffusionPipeline:
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=32,
        patch_size=(1, 2, 2),
        model_dim=64,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(8, 12, 12),
    )
    return diffusers.Kandinsky5T2IPipeline(
        transformer=transformer.eval(),
        vae=families.plain_vae(),
        text_encoder=families.qwen_vl(),
        tokenizer=families.chat_tokenizer(256),
        text_encoder_2=parts.clip_text(),
        tokenizer_2=parts.clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def hunyuan_image() -> DiffusionPipeline:
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    return diffusers.HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=vae.eval(),
        text_encoder=families.qwen_vl(),
        tokenizer=families.chat_tokenizer(256),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.word_tokenizer(128),
        transformer=transformer.eval(),
        guider=diffusers.AdaptiveProjectedMixGuidance(),
        ocr_guider=diffusers.AdaptiveProjectedMixGuidance(),
    )


def easy_animate() -> DiffusionPipeline:
    transformer = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=WIDTH,
        num_layers=1,
        mmdit_layers=1,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    vae = diffusers.AutoencoderKLMagvit(
        latent_channels=4,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    return diffusers.EasyAnimatePipeline(
        vae=vae.eval(),
        text_encoder=families.qwen_vl(),
        tokenizer=families.chat_tokenizer(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def wuerstchen() -> DiffusionPipeline:
    from diffusers.pipelines.deprecated.wuerstchen import (
        PaellaVQModel,
        WuerstchenDiffNeXt,
        WuerstchenPrior,
    )

    return diffusers.WuerstchenCombinedPipeline(
        tokenizer=parts.clip_tokenizer(),
        text_encoder=parts.clip_text(),
        decoder=WuerstchenDiffNeXt(
            c_cond=WIDTH,
            c_hidden=[320],
            nhead=[-1],
            blocks=[4],
            level_config=["CT"],
            clip_embd=WIDTH,
            inject_effnet=[False],
        ).eval(),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(
            bottleneck_blocks=1, num_vq_embeddings=2, in_channels=3, out_channels=3
        ).eval(),
        prior_tokenizer=parts.clip_tokenizer(),
        prior_text_encoder=parts.clip_text(),
        prior_prior=WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=WIDTH, c_r=8, nhead=2).eval(),
        prior_scheduler=diffusers.DDPMWuerstchenScheduler(),
    )


def flux2() -> DiffusionPipeline:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    klein = families.flux2_klein().components
    text = {
        "model_type": "mistral",
        "vocab_size": 8,
        "hidden_size": 16,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "image_size": 30,
        "patch_size": 6,
        "num_channels": 3,
    }
    config = Mistral3Config(
        text_config=text, vision_config=vision, spatial_merge_size=1, image_token_index=7
    )
    return diffusers.Flux2Pipeline(
        scheduler=klein["scheduler"],
        vae=klein["vae"],
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=families.chat_tokenizer(),
        transformer=changed(klein["transformer"], joint_attention_dim=32, guidance_embeds=True),
    )


def kandinsky5_video() -> DiffusionPipeline:
    image = kandinsky5_image().components
    return diffusers.Kandinsky5T2VPipeline(**{**image, "vae": more_videos.hunyuan_vae()})
