"""Text-to-image pipelines and their relatives, tiny."""

from __future__ import annotations

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import BertConfig, BertModel

from tiny_pipelines import parts
from tiny_pipelines.parts import WIDTH


def _sd_components(unet_channels: int = 4) -> dict[str, object]:
    return {
        "vae": parts.vae(),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": parts.unet(unet_channels),
        "scheduler": parts.ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def sd15() -> DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(**_sd_components())


def sd15_img2img() -> DiffusionPipeline:
    return diffusers.StableDiffusionImg2ImgPipeline(**_sd_components())


def sd15_inpaint() -> DiffusionPipeline:
    return diffusers.StableDiffusionInpaintPipeline(**_sd_components(unet_channels=9))


def sd15_controlnet() -> DiffusionPipeline:
    components = _sd_components()
    controlnet = diffusers.ControlNetModel.from_unet(
        components["unet"], conditioning_embedding_out_channels=(16, 32)
    )
    return diffusers.StableDiffusionControlNetPipeline(controlnet=controlnet.eval(), **components)


def _sdxl_unet(time_ids: int) -> diffusers.UNet2DConditionModel:
    return parts.unet(
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=8 * time_ids + WIDTH,
        cross_attention_dim=2 * WIDTH if time_ids == 6 else WIDTH,
    )


def _sdxl_components() -> dict[str, object]:
    return {
        "vae": parts.vae(),
        "text_encoder": parts.clip_text(),
        "text_encoder_2": parts.clip_text_projected(),
        "tokenizer": parts.clip_tokenizer(),
        "tokenizer_2": parts.clip_tokenizer(),
        "unet": _sdxl_unet(6),
        "scheduler": diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
        "add_watermarker": False,
    }


def sdxl() -> DiffusionPipeline:
    return diffusers.StableDiffusionXLPipeline(**_sdxl_components())


class _Straight(nn.Module):
    """In place of a decoder's middle: its channels stay what they are."""

    def forward(self, sample: torch.Tensor, embedded: object = None) -> torch.Tensor:
        return sample


def sdxl_small_vae() -> DiffusionPipeline:
    """Whose decoder Inductor compiles in seconds: two convolutions and a norm between them."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
    )
    vae.decoder.mid_block, vae.decoder.up_blocks = _Straight(), nn.ModuleList()
    return diffusers.StableDiffusionXLPipeline(**{**_sdxl_components(), "vae": vae.eval()})


def sdxl_img2img() -> DiffusionPipeline:
    return diffusers.StableDiffusionXLImg2ImgPipeline(**_sdxl_components())


def sdxl_refiner() -> DiffusionPipeline:
    """The refiner's shape: one text encoder, an aesthetic score among the time ids."""
    components = _sdxl_components() | {
        "text_encoder": None,
        "tokenizer": None,
        "unet": _sdxl_unet(5),
    }
    return diffusers.StableDiffusionXLImg2ImgPipeline(requires_aesthetics_score=True, **components)


def sd3() -> DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609),
        text_encoder=parts.clip_text_projected(WIDTH // 2),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.clip_text_projected(WIDTH // 2),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.word_tokenizer(),
    )


def flux() -> DiffusionPipeline:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609),
        text_encoder=parts.clip_text(),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.word_tokenizer(),
        transformer=transformer.eval(),
    )


def pixart_sigma() -> DiffusionPipeline:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(),
        transformer=transformer.eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def sana() -> DiffusionPipeline:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
    )
    blocks = ("ResBlock", "EfficientViTBlock")
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    return diffusers.SanaPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.gemma(),
        vae=autoencoder.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def lumina2() -> DiffusionPipeline:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(128, 128, 128),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609),
        text_encoder=parts.gemma(),
        tokenizer=parts.word_tokenizer(),
    )


def hunyuandit() -> DiffusionPipeline:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        hidden_size=24,
        text_len=77,
        text_len_t5=256,
        activation_fn="gelu-approximate",
    )
    config = BertConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
    )
    return diffusers.HunyuanDiTPipeline(
        vae=parts.vae(),
        text_encoder=BertModel(config).eval(),
        tokenizer=parts.word_tokenizer(77),
        transformer=transformer.eval(),
        scheduler=diffusers.DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.word_tokenizer(256),
    )


def auraflow() -> DiffusionPipeline:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pos_embed_max_size=256,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=parts.word_tokenizer(),
        text_encoder=parts.umt5(),
        vae=parts.vae(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _kandinsky_decoder() -> dict[str, object]:
    unet = parts.unet(
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
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
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return {"unet": unet, "scheduler": scheduler, "movq": movq.eval()}


def _kandinsky_prior() -> dict[str, object]:
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=WIDTH, num_layers=1
    )
    prior.clip_std.data.fill_(1.0)
    return {
        "prior": prior.eval(),
        "image_encoder": parts.clip_vision(),
        "text_encoder": parts.clip_text_projected(),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        "image_processor": parts.picture_processor(crop_size=32, size=32),
    }


def kandinsky22_prior() -> DiffusionPipeline:
    return diffusers.KandinskyV22PriorPipeline(**_kandinsky_prior())


def kandinsky22_decoder() -> DiffusionPipeline:
    return diffusers.KandinskyV22Pipeline(**_kandinsky_decoder())


def kandinsky22() -> DiffusionPipeline:
    prior = {f"prior_{name}": component for name, component in _kandinsky_prior().items()}
    return diffusers.KandinskyV22CombinedPipeline(**_kandinsky_decoder(), **prior)


def _cascade_unet(**overrides: object) -> diffusers.models.ModelMixin:
    blocks = (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),)
    config: dict[str, object] = {
        "conditioning_dim": WIDTH,
        "block_out_channels": (32,),
        "num_attention_heads": (2,),
        "down_num_layers_per_block": (1,),
        "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,),
        "up_blocks_repeat_mappers": (1,),
        "block_types_per_layer": blocks,
        "clip_text_pooled_in_channels": WIDTH,
        "clip_seq": 4,
        "dropout": (0.1,),
        "switch_level": (False,),
        **overrides,
    }
    return diffusers.models.StableCascadeUNet(**config).eval()


def _cascade_prior() -> dict[str, object]:
    prior = _cascade_unet(
        in_channels=16,
        out_channels=16,
        clip_text_in_channels=WIDTH,
        clip_image_in_channels=WIDTH,
        timestep_conditioning_type=("sca", "crp"),
    )
    return {
        "prior": prior,
        "text_encoder": parts.clip_text_projected(),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": diffusers.DDPMWuerstchenScheduler(),
    }


def _cascade_decoder() -> dict[str, object]:
    from diffusers.pipelines.stable_cascade.pipeline_stable_cascade import PaellaVQModel

    decoder = _cascade_unet(
        in_channels=4,
        out_channels=4,
        patch_size=2,
        effnet_in_channels=16,
        timestep_conditioning_type=("sca",),
    )
    return {
        "decoder": decoder,
        "text_encoder": parts.clip_text_projected(),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": diffusers.DDPMWuerstchenScheduler(),
        "vqgan": PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8).eval(),
    }


def stable_cascade_prior() -> DiffusionPipeline:
    return diffusers.StableCascadePriorPipeline(**_cascade_prior())


def stable_cascade_decoder() -> DiffusionPipeline:
    return diffusers.StableCascadeDecoderPipeline(latent_dim_scale=4.0, **_cascade_decoder())


def stable_cascade() -> DiffusionPipeline:
    prior = {f"prior_{name}": component for name, component in _cascade_prior().items()}
    return diffusers.StableCascadeCombinedPipeline(**_cascade_decoder(), **prior)
