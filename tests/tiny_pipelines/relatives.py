"""Pipelines made from another tiny pipeline's components: the same models behind another call."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import diffusers
from diffusers import DiffusionPipeline
from torch import nn

from tiny_pipelines import images, parts, videos


def same(
    class_name: str, make: Callable[[], DiffusionPipeline], **changes: object
) -> Callable[[], DiffusionPipeline]:
    """A builder of `class_name` from the components of what `make` builds, some of them changed."""

    def build() -> DiffusionPipeline:
        made = {name: change() if callable(change) else change for name, change in changes.items()}
        kind = getattr(diffusers, class_name)
        accepted = inspect.signature(kind.__init__).parameters
        kept = {
            name: component for name, component in make().components.items() if name in accepted
        }
        for component in made.values():
            if isinstance(component, nn.Module):
                component.eval()
        return kind(**{**kept, **made})

    return build


def changed(model: nn.Module, **changes: object) -> nn.Module:
    """A new model of the same configuration but for `changes`.

    Not by `from_config`, which ignores a change of what was left at its default.
    """
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return type(model)(**{**config, **changes}).eval()


def _with_adapter(
    class_name: str, make: Callable[[], DiffusionPipeline]
) -> Callable[[], DiffusionPipeline]:
    """SD 1.5 or SDXL with an untrained motion adapter."""

    def build() -> DiffusionPipeline:
        components = make().components
        adapter = diffusers.MotionAdapter(
            block_out_channels=(32, 64),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=4,
            use_motion_mid_block=class_name != "AnimateDiffSDXLPipeline",
        )
        for name in ("safety_checker", "requires_safety_checker"):
            components.pop(name, None)
        return getattr(diffusers, class_name)(motion_adapter=adapter.eval(), **components)

    return build


animatediff = _with_adapter("AnimateDiffPipeline", images.sd15)
animatediff_pag = _with_adapter("AnimateDiffPAGPipeline", images.sd15)


def _lcm_unet() -> diffusers.UNet2DConditionModel:
    return parts.unet(time_cond_proj_dim=32)


def _controlnet(make: Callable[[], DiffusionPipeline]) -> diffusers.ControlNetModel:
    return diffusers.ControlNetModel.from_unet(
        make().unet, conditioning_embedding_out_channels=(16, 32)
    ).eval()


def _sd3_transformer() -> diffusers.SD3Transformer2DModel:
    """With the 16 latent channels that the inpainting call insists on."""
    return changed(images.sd3().transformer, in_channels=16, out_channels=16)


def _flux_transformer(channels: int) -> diffusers.FluxTransformer2DModel:
    return changed(images.flux().transformer, in_channels=channels, out_channels=16)


def _sana_sprint_transformer() -> diffusers.SanaTransformer2DModel:
    return changed(images.sana().transformer, guidance_embeds=True, qk_norm="rms_norm_across_heads")


def _pixart_alpha_transformer() -> diffusers.PixArtTransformer2DModel:
    return changed(images.pixart_sigma().transformer)


lcm = same(
    "LatentConsistencyModelPipeline", images.sd15, unet=_lcm_unet, scheduler=diffusers.LCMScheduler
)
lcm_img2img = same(
    "LatentConsistencyModelImg2ImgPipeline",
    images.sd15,
    unet=_lcm_unet,
    scheduler=diffusers.LCMScheduler,
)
sd15_pag = same("StableDiffusionPAGPipeline", images.sd15)
sdxl_pag = same("StableDiffusionXLPAGPipeline", images.sdxl)
sdxl_inpaint = same("StableDiffusionXLInpaintPipeline", images.sdxl)
sdxl_controlnet = same(
    "StableDiffusionXLControlNetPipeline", images.sdxl, controlnet=lambda: _controlnet(images.sdxl)
)
sd3_img2img = same("StableDiffusion3Img2ImgPipeline", images.sd3)
sd3_inpaint = same(
    "StableDiffusion3InpaintPipeline",
    images.sd3,
    transformer=_sd3_transformer,
    vae=lambda: parts.vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609),
)
sd3_pag = same("StableDiffusion3PAGPipeline", images.sd3)
flux_img2img = same("FluxImg2ImgPipeline", images.flux)
flux_inpaint = same("FluxInpaintPipeline", images.flux)
flux_kontext = same("FluxKontextPipeline", images.flux)
flux_control = same("FluxControlPipeline", images.flux, transformer=lambda: _flux_transformer(32))
flux_fill = same("FluxFillPipeline", images.flux, transformer=lambda: _flux_transformer(48))
pixart_alpha = same(
    "PixArtAlphaPipeline", images.pixart_sigma, transformer=_pixart_alpha_transformer
)
pixart_sigma_pag = same(
    "PixArtSigmaPAGPipeline", images.pixart_sigma, pag_applied_layers="blocks.1"
)
hunyuandit_pag = same("HunyuanDiTPAGPipeline", images.hunyuandit)
sana_pag = same("SanaPAGPipeline", images.sana)
sana_sprint = same(
    "SanaSprintPipeline",
    images.sana,
    transformer=_sana_sprint_transformer,
    scheduler=diffusers.SCMScheduler,
)
kandinsky22_img2img = same("KandinskyV22Img2ImgPipeline", images.kandinsky22_decoder)
cogvideox_video_to_video = same("CogVideoXVideoToVideoPipeline", videos.cogvideox)
ltx_image_to_video = same("LTXImageToVideoPipeline", videos.ltx)
ltx_condition = same("LTXConditionPipeline", videos.ltx)


def marigold_depth() -> DiffusionPipeline:
    components = images.sd15().components
    return diffusers.MarigoldDepthPipeline(
        unet=parts.unet(8),
        vae=components["vae"],
        scheduler=parts.ddim(),
        text_encoder=components["text_encoder"],
        tokenizer=components["tokenizer"],
        prediction_type="depth",
        scale_invariant=True,
        shift_invariant=True,
    )


def instruct_pix2pix() -> DiffusionPipeline:
    return same("StableDiffusionInstructPix2PixPipeline", images.sd15, unet=lambda: parts.unet(8))()
