"""Further calls of families that are built elsewhere: image to image, inpainting, ControlNets, PAG.

`VARIANTS` maps a name to how it is built, what its call needs, and how it is called; most are the
same models behind another class of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessor

from tiny_pipelines import families, images, later, parts, relatives, videos
from tiny_pipelines.relatives import changed, same


class Variant(NamedTuple):
    """The fields of a TinyPipeline; `extra` are keyword arguments, made anew for each call."""

    make: Callable[[], DiffusionPipeline]
    extra: Callable[[], dict[str, object]] = dict
    prompted: bool = True
    steps: tuple[str, ...] = ("num_inference_steps",)


Arguments = dict[str, object]
BOTH = ("num_inference_steps", "prior_num_inference_steps")
SHORT: Arguments = {"max_sequence_length": 16}


def sized(size: int = 32, **more: object) -> Arguments:
    return {"height": size, "width": size, "output_type": "np", **more}


def pictured(size: int = 32, **more: object) -> Arguments:
    return sized(size, image=parts.picture(size), **more)


def repainted(size: int = 32, **more: object) -> Arguments:
    return pictured(size, mask_image=parts.mask(size), **more)


def drawn(size: int = 32) -> Image.Image:
    return Image.new("RGB", (size, size), (200, 40, 40))


def clip(frames: int, size: int) -> list[Image.Image]:
    return [Image.new("RGB", (size, size), (20 * index, 80, 120)) for index in range(frames)]


def embedding(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def controlnet(make: Callable[[], DiffusionPipeline]) -> Callable[[], Any]:
    return lambda: diffusers.ControlNetModel.from_unet(
        make().unet, conditioning_embedding_out_channels=(16, 32)
    ).eval()


def _control() -> Arguments:
    return {"control_image": parts.picture()}


_SD_CONTROL = images.sd15_controlnet
_SDXL_CONTROL = relatives.sdxl_controlnet


STABLE_DIFFUSION: dict[str, Variant] = {
    "sd15_controlnet_img2img": Variant(
        same("StableDiffusionControlNetImg2ImgPipeline", _SD_CONTROL),
        lambda: pictured(strength=0.99, **_control()),
    ),
    "sd15_controlnet_inpaint": Variant(
        same("StableDiffusionControlNetInpaintPipeline", _SD_CONTROL),
        lambda: repainted(**_control()),
    ),
    "sd15_controlnet_pag": Variant(
        same("StableDiffusionControlNetPAGPipeline", _SD_CONTROL), pictured
    ),
    "sd15_controlnet_pag_inpaint": Variant(
        same("StableDiffusionControlNetPAGInpaintPipeline", _SD_CONTROL),
        lambda: repainted(**_control()),
    ),
    "sd15_pag_img2img": Variant(
        same("StableDiffusionPAGImg2ImgPipeline", images.sd15),
        lambda: {"image": parts.picture(), "strength": 0.99, "output_type": "np"},
    ),
    "sd15_pag_inpaint": Variant(
        same("StableDiffusionPAGInpaintPipeline", images.sd15_inpaint), repainted
    ),
    "sd2_depth": Variant(
        same(
            "StableDiffusionDepth2ImgPipeline",
            images.sd15,
            unet=lambda: parts.unet(5),
            depth_estimator=lambda: _depth_estimator(),
            feature_extractor=lambda: None,
        ),
        lambda: {
            "image": parts.picture(),
            "depth_map": embedding(1, 32, 32),
            "strength": 0.99,
            "output_type": "np",
        },
    ),
    "sd15_image_variation": Variant(
        same(
            "StableDiffusionImageVariationPipeline",
            images.sd15,
            image_encoder=parts.clip_vision,
            feature_extractor=lambda: CLIPImageProcessor(crop_size=32, size=32),
        ),
        lambda: sized(image=drawn()),
        prompted=False,
    ),
    "sd2_upscale": Variant(
        same(
            "StableDiffusionUpscalePipeline",
            images.sd15,
            unet=lambda: parts.unet(7, num_class_embeds=1000),
            low_res_scheduler=diffusers.DDPMScheduler,
        ),
        lambda: {"image": parts.picture(16), "output_type": "np"},
    ),
    "stable_unclip_img2img": Variant(
        same(
            "StableUnCLIPImg2ImgPipeline",
            later.stable_unclip,
            image_encoder=parts.clip_vision,
            feature_extractor=lambda: CLIPImageProcessor(crop_size=32, size=32),
        ),
        lambda: sized(image=drawn()),
    ),
    "marigold_normals": Variant(
        same(
            "MarigoldNormalsPipeline", relatives.marigold_depth, prediction_type=lambda: "normals"
        ),
        lambda: {"image": parts.picture(), "output_type": "np", "processing_resolution": 0},
        prompted=False,
    ),
    "marigold_intrinsics": Variant(
        same(
            "MarigoldIntrinsicsPipeline",
            relatives.marigold_depth,
            unet=lambda: parts.unet(12, out_channels=8),
            prediction_type=lambda: "intrinsics",
            target_properties=lambda: {"target_names": ["albedo", "shading"]},
        ),
        lambda: {"image": parts.picture(), "output_type": "np", "processing_resolution": 0},
        prompted=False,
    ),
    "sdxl_controlnet_img2img": Variant(
        same("StableDiffusionXLControlNetImg2ImgPipeline", _SDXL_CONTROL),
        lambda: pictured(strength=0.99, **_control()),
    ),
    "sdxl_controlnet_inpaint": Variant(
        same("StableDiffusionXLControlNetInpaintPipeline", _SDXL_CONTROL),
        lambda: repainted(**_control()),
    ),
    "sdxl_controlnet_pag": Variant(
        same("StableDiffusionXLControlNetPAGPipeline", _SDXL_CONTROL), pictured
    ),
    "sdxl_controlnet_pag_img2img": Variant(
        same("StableDiffusionXLControlNetPAGImg2ImgPipeline", _SDXL_CONTROL),
        lambda: pictured(strength=0.99, **_control()),
    ),
    "sdxl_instruct_pix2pix": Variant(
        same(
            "StableDiffusionXLInstructPix2PixPipeline",
            images.sdxl,
            unet=lambda: changed(images.sdxl().unet, in_channels=8),
        ),
        pictured,
    ),
    "sdxl_pag_img2img": Variant(
        same("StableDiffusionXLPAGImg2ImgPipeline", images.sdxl),
        lambda: {"image": parts.picture(), "strength": 0.99, "output_type": "np"},
    ),
    "sdxl_pag_inpaint": Variant(
        same("StableDiffusionXLPAGInpaintPipeline", images.sdxl), repainted
    ),
}


def _depth_estimator() -> Any:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        num_attention_heads=4,
        intermediate_size=37,
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    )
    return DPTForDepthEstimation(config)


def _plain_unet(class_name: str, **more: Any) -> Callable[[], DiffusionPipeline]:
    """Of Stable Diffusion's own UNet, which the pipeline gives its motion modules."""
    build = relatives._with_adapter("AnimateDiffPipeline", images.sd15)

    def make() -> DiffusionPipeline:
        return same(class_name, build, unet=parts.unet, **more)()

    return make


ANIMATED: dict[str, Variant] = {
    "animatediff_sdxl": Variant(
        relatives._with_adapter("AnimateDiffSDXLPipeline", images.sdxl),
        lambda: sized(num_frames=4),
    ),
    "animatediff_controlnet": Variant(
        _plain_unet("AnimateDiffControlNetPipeline", controlnet=controlnet(images.sd15)),
        lambda: sized(num_frames=4, conditioning_frames=clip(4, 32)),
    ),
    "animatediff_video_to_video": Variant(
        _plain_unet("AnimateDiffVideoToVideoPipeline"),
        lambda: sized(video=clip(4, 32), strength=0.99),
    ),
    "animatediff_video_to_video_controlnet": Variant(
        _plain_unet(
            "AnimateDiffVideoToVideoControlNetPipeline", controlnet=controlnet(images.sd15)
        ),
        lambda: sized(video=clip(4, 32), conditioning_frames=clip(4, 32), strength=0.99),
    ),
}


def _sd3_controlnet(channels: int) -> Any:
    transformer = changed(images.sd3().transformer, in_channels=channels, out_channels=channels)
    return diffusers.SD3ControlNetModel.from_transformer(
        transformer, num_layers=1, num_extra_conditioning_channels=1 if channels > 4 else 0
    )


def _flux_controlnet() -> Any:
    return diffusers.FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.WIDTH,
        pooled_projection_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )


def _flux_control() -> Any:
    return relatives._flux_transformer(32)


FLOW: dict[str, Variant] = {
    "sd3_pag_img2img": Variant(
        same("StableDiffusion3PAGImg2ImgPipeline", images.sd3),
        lambda: {"image": parts.picture(), "strength": 0.99, "output_type": "np"},
    ),
    "sd3_controlnet": Variant(
        same(
            "StableDiffusion3ControlNetPipeline", images.sd3, controlnet=lambda: _sd3_controlnet(4)
        ),
        lambda: sized(**SHORT, **_control()),
    ),
    "sd3_controlnet_inpaint": Variant(
        same(
            "StableDiffusion3ControlNetInpaintingPipeline",
            relatives.sd3_inpaint,
            controlnet=lambda: _sd3_controlnet(16),
        ),
        lambda: sized(**SHORT, control_image=parts.picture(), control_mask=parts.mask()),
    ),
    "flux_control_img2img": Variant(
        same("FluxControlImg2ImgPipeline", images.flux, transformer=_flux_control),
        lambda: pictured(**SHORT, **_control(), strength=0.99),
    ),
    "flux_control_inpaint": Variant(
        same("FluxControlInpaintPipeline", images.flux, transformer=_flux_control),
        lambda: repainted(**SHORT, **_control(), strength=0.99),
    ),
    "flux_controlnet": Variant(
        same("FluxControlNetPipeline", images.flux, controlnet=_flux_controlnet),
        lambda: sized(**SHORT, **_control()),
    ),
    "flux_controlnet_img2img": Variant(
        same("FluxControlNetImg2ImgPipeline", images.flux, controlnet=_flux_controlnet),
        lambda: pictured(**SHORT, **_control(), strength=0.99),
    ),
    "flux_controlnet_inpaint": Variant(
        same("FluxControlNetInpaintPipeline", images.flux, controlnet=_flux_controlnet),
        lambda: repainted(**SHORT, **_control(), strength=0.99),
    ),
    "flux_kontext_inpaint": Variant(
        same("FluxKontextInpaintPipeline", images.flux),
        lambda: repainted(**SHORT, max_area=32 * 32, _auto_resize=False, strength=0.99),
    ),
    "flux2_klein_inpaint": Variant(
        same("Flux2KleinInpaintPipeline", families.flux2_klein),
        lambda: repainted(**SHORT, text_encoder_out_layers=(1, 2, 3), strength=0.99),
    ),
    "flux2_klein_kv": Variant(
        same("Flux2KleinKVPipeline", families.flux2_klein),
        lambda: sized(**SHORT, text_encoder_out_layers=(1, 2, 3)),
    ),
    "chroma_img2img": Variant(
        same("ChromaImg2ImgPipeline", families.chroma), lambda: pictured(**SHORT, strength=0.99)
    ),
    "qwenimage_img2img": Variant(
        same("QwenImageImg2ImgPipeline", families.qwenimage),
        lambda: pictured(**SHORT, strength=0.99),
    ),
    "qwenimage_inpaint": Variant(
        same("QwenImageInpaintPipeline", families.qwenimage),
        lambda: repainted(**SHORT, strength=0.99),
    ),
    "qwenimage_controlnet": Variant(
        same("QwenImageControlNetPipeline", families.qwenimage, controlnet=lambda: _qwen_control()),
        lambda: sized(**SHORT, **_control()),
    ),
    "qwenimage_controlnet_inpaint": Variant(
        same(
            "QwenImageControlNetInpaintPipeline",
            families.qwenimage,
            controlnet=lambda: _qwen_control(4),
        ),
        lambda: sized(**SHORT, **_control(), control_mask=parts.mask()),
    ),
    "z_image_img2img": Variant(
        same("ZImageImg2ImgPipeline", families.z_image), lambda: pictured(**SHORT, strength=0.99)
    ),
    "z_image_inpaint": Variant(
        same("ZImageInpaintPipeline", families.z_image), lambda: repainted(**SHORT, strength=0.99)
    ),
    "cogview4_control": Variant(
        same(
            "CogView4ControlPipeline",
            families.cogview4,
            transformer=lambda: changed(families.cogview4().transformer, in_channels=8),
        ),
        lambda: sized(16, control_image=parts.picture(16), **SHORT),
    ),
    "sana_sprint_img2img": Variant(
        same("SanaSprintImg2ImgPipeline", relatives.sana_sprint),
        lambda: pictured(
            **SHORT,
            use_resolution_binning=False,
            clean_caption=False,
            complex_human_instruction=None,
            strength=0.5,
        ),
    ),
    "sana_controlnet": Variant(
        same(
            "SanaControlNetPipeline",
            images.sana,
            controlnet=lambda: diffusers.SanaControlNetModel(
                in_channels=4,
                out_channels=4,
                num_layers=1,
                num_attention_heads=2,
                attention_head_dim=4,
                num_cross_attention_heads=2,
                cross_attention_head_dim=4,
                cross_attention_dim=8,
                caption_channels=parts.WIDTH,
            ),
        ),
        lambda: sized(
            **SHORT,
            **_control(),
            use_resolution_binning=False,
            clean_caption=False,
            complex_human_instruction=None,
        ),
    ),
}


def _qwen_control(extra: int = 0) -> Any:
    return diffusers.QwenImageControlNetModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(8, 4, 4),
        extra_condition_channels=extra,
    )


def _embeds() -> Arguments:
    return {"image_embeds": embedding(1, 32), "negative_image_embeds": embedding(1, 32)}


KANDINSKY: dict[str, Variant] = {
    "kandinsky22_inpaint": Variant(
        same(
            "KandinskyV22InpaintPipeline",
            images.kandinsky22_decoder,
            unet=lambda: changed(images.kandinsky22_decoder().unet, in_channels=9),
        ),
        lambda: sized(64, image=drawn(64), mask_image=_hole(), **_embeds()),
        prompted=False,
    ),
    "kandinsky22_img2img_combined": Variant(
        same("KandinskyV22Img2ImgCombinedPipeline", images.kandinsky22),
        lambda: sized(64, image=drawn(64), strength=0.99),
        steps=BOTH,
    ),
    "kandinsky22_inpaint_combined": Variant(
        same(
            "KandinskyV22InpaintCombinedPipeline",
            images.kandinsky22,
            unet=lambda: changed(images.kandinsky22_decoder().unet, in_channels=9),
        ),
        lambda: sized(64, image=drawn(64), mask_image=_hole()),
        steps=BOTH,
    ),
    "kandinsky22_prior_from_picture": Variant(
        same("KandinskyV22PriorEmb2EmbPipeline", images.kandinsky22_prior),
        lambda: {"image": drawn(), "strength": 0.99, "output_type": "np"},
    ),
    "kandinsky3_img2img": Variant(
        same("Kandinsky3Img2ImgPipeline", families.kandinsky3),
        lambda: {"image": drawn(64), "strength": 0.99, "output_type": "np"},
    ),
}


def _hole() -> Any:
    import numpy

    mask = numpy.zeros((64, 64), dtype=numpy.float32)
    mask[:32] = 1
    return mask


def _if_unet(channels: int, **more: object) -> Callable[[], Any]:
    return lambda: changed(families.deepfloyd_if().unet, in_channels=channels, **more)


def _super_resolution(class_name: str) -> Callable[[], DiffusionPipeline]:
    return same(
        class_name,
        families.deepfloyd_if,
        unet=_if_unet(6, class_embed_type="timestep"),
        image_noising_scheduler=diffusers.DDPMScheduler,
    )


_UNCLEAN: Arguments = {"clean_caption": False, "output_type": "np"}
DEEPFLOYD: dict[str, Variant] = {
    "deepfloyd_if_img2img": Variant(
        same("IFImg2ImgPipeline", families.deepfloyd_if),
        lambda: {"image": parts.picture(), "strength": 0.99, **_UNCLEAN},
    ),
    "deepfloyd_if_inpaint": Variant(
        same("IFInpaintingPipeline", families.deepfloyd_if),
        lambda: {
            "image": parts.picture(),
            "mask_image": parts.mask(),
            "strength": 0.99,
            **_UNCLEAN,
        },
    ),
    "deepfloyd_if_upscale": Variant(
        _super_resolution("IFSuperResolutionPipeline"),
        lambda: {"image": parts.picture(16), "height": 32, "width": 32, **_UNCLEAN},
    ),
    "deepfloyd_if_img2img_upscale": Variant(
        _super_resolution("IFImg2ImgSuperResolutionPipeline"),
        lambda: {
            "image": parts.picture(16),
            "original_image": parts.picture(32),
            "strength": 0.99,
            **_UNCLEAN,
        },
    ),
    "deepfloyd_if_inpaint_upscale": Variant(
        _super_resolution("IFInpaintingSuperResolutionPipeline"),
        lambda: {
            "image": parts.picture(16),
            "original_image": parts.picture(32),
            "mask_image": parts.mask(32),
            "strength": 0.99,
            **_UNCLEAN,
        },
    ),
}


def _unconditional(class_name: str, scheduler: Any) -> Callable[[], DiffusionPipeline]:
    def make() -> DiffusionPipeline:
        unet = diffusers.UNet2DModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        return getattr(diffusers, class_name)(unet=unet.eval(), scheduler=scheduler())

    return make


def _consistency() -> DiffusionPipeline:
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="positional",
    )
    return diffusers.ConsistencyModelPipeline(
        unet=unet.eval(), scheduler=diffusers.CMStochasticIterativeScheduler()
    )


def _latent_upscaler() -> DiffusionPipeline:
    unet = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
    )
    return diffusers.LDMSuperResolutionPipeline(
        vqvae=movq.eval(), unet=unet.eval(), scheduler=diffusers.DDIMScheduler()
    )


def _numbers() -> Arguments:
    return {"output_type": "np"}


UNCONDITIONAL: dict[str, Variant] = {
    "ddpm": Variant(
        _unconditional("DDPMPipeline", diffusers.DDPMScheduler), _numbers, prompted=False
    ),
    "ddim": Variant(
        _unconditional("DDIMPipeline", diffusers.DDIMScheduler), _numbers, prompted=False
    ),
    "consistency_model": Variant(_consistency, _numbers, prompted=False),
    "ldm_upscale": Variant(
        _latent_upscaler, lambda: {"image": parts.picture(16), "output_type": "np"}, prompted=False
    ),
}


def _forcing(class_name: str) -> Callable[[], DiffusionPipeline]:
    return same(
        class_name,
        later.skyreels_v2,
        scheduler=lambda: diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0
        ),
    )


def _of_video(frames: int, size: int = 16, **more: object) -> Arguments:
    return {**sized(size, **SHORT), "num_frames": frames, **more}


VIDEO: dict[str, Variant] = {
    "skyreels_v2_forcing": Variant(
        _forcing("SkyReelsV2DiffusionForcingPipeline"), lambda: _of_video(9)
    ),
    "skyreels_v2_forcing_image_to_video": Variant(
        _forcing("SkyReelsV2DiffusionForcingImageToVideoPipeline"),
        lambda: _of_video(9, image=drawn(16)),
    ),
    "skyreels_v2_forcing_video_to_video": Variant(
        _forcing("SkyReelsV2DiffusionForcingVideoToVideoPipeline"),
        lambda: _of_video(9, video=clip(7, 16), overlap_history=3, base_num_frames=5),
    ),
    "cogvideox_fun_control": Variant(
        same(
            "CogVideoXFunControlPipeline",
            videos.cogvideox,
            transformer=lambda: changed(videos.cogvideox().transformer, in_channels=8),
        ),
        lambda: sized(16, **SHORT, control_video=clip(8, 16)),
    ),
    "anyflow_far": Variant(
        same(
            "AnyFlowFARPipeline",
            later.anyflow,
            transformer=lambda: diffusers.AnyFlowFARTransformer3DModel(
                **videos.WAN, chunk_partition=(1, 2)
            ),
        ),
        lambda: _of_video(9),
    ),
    "cosmos_video_to_world": Variant(
        same(
            "CosmosVideoToWorldPipeline",
            later.cosmos_text_to_world,
            transformer=lambda: changed(later.cosmos_text_to_world().transformer, in_channels=5),
        ),
        lambda: _of_video(9, 32, image=drawn(32)),
    ),
    "cosmos2_video_to_world": Variant(
        same(
            "Cosmos2VideoToWorldPipeline",
            families.cosmos2_text_to_image,
            transformer=lambda: changed(
                families.cosmos2_text_to_image().transformer, in_channels=17
            ),
        ),
        lambda: _of_video(9, 16, image=drawn(16)),
    ),
    "sana_image_to_video": Variant(
        lambda: _sana_from_picture(),
        lambda: sized(
            32,
            **SHORT,
            image=drawn(32),
            frames=9,
            use_resolution_binning=False,
            clean_caption=False,
            complex_human_instruction=None,
        ),
    ),
    "easy_animate_inpaint": Variant(
        same(
            "EasyAnimateInpaintPipeline",
            later.easy_animate,
            transformer=lambda: changed(
                later.easy_animate().transformer,
                in_channels=2 * later.easy_animate().transformer.config.in_channels + 1,
            ),
        ),
        lambda: sized(
            16,
            num_frames=5,
            video=_pixels(5, 16),
            mask_video=torch.full((1, 1, 5, 16, 16), 255.0),
            negative_prompt="a cat",
        ),
    ),
}


def _sana_from_picture() -> DiffusionPipeline:
    from tiny_pipelines import more_videos

    return same("SanaImageToVideoPipeline", more_videos.sana_video)()


def _pixels(frames: int, size: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(3))


VARIANTS: dict[str, Variant] = {
    **STABLE_DIFFUSION,
    **ANIMATED,
    **FLOW,
    **KANDINSKY,
    **DEEPFLOYD,
    **UNCONDITIONAL,
    **VIDEO,
}
