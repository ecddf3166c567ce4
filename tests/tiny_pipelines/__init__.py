"""Tiny random pipelines of many diffusers classes: `PIPELINES['flux'].build()`.

Each is built anew and seeded, so two builds are equal; each runs whole on the CPU in well under a
few seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from tiny_pipelines import (
    editing,
    families,
    images,
    later,
    more_videos,
    newest,
    parts,
    recent,
    relatives,
    variants,
    videos,
)
from tiny_pipelines.unbuilt import NOT_BUILT as NOT_BUILT

PROMPT = "a red apple"


@dataclass(frozen=True)
class TinyPipeline:
    """How to build one, and what its call needs beside a prompt, a number of steps and a
    generator."""

    make: Callable[[], DiffusionPipeline]
    extra: Callable[[], dict[str, object]] = field(default=dict)
    prompted: bool = True
    steps: tuple[str, ...] = ("num_inference_steps",)

    def build(self) -> DiffusionPipeline:
        """A new pipeline with the same random weights each time."""
        torch.manual_seed(0)
        pipeline = self.make()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def arguments(self, steps: int = 2, seed: int = 0) -> dict[str, object]:
        """Keyword arguments of a call."""
        return {
            **({"prompt": PROMPT} if self.prompted else {}),
            **dict.fromkeys(self.steps, steps),
            "generator": torch.Generator("cpu").manual_seed(seed),
            **self.extra(),
        }


def _video(frames: int, size: int = 16) -> Callable[[], dict[str, object]]:
    return lambda: {
        "num_frames": frames,
        "height": size,
        "width": size,
        "max_sequence_length": 16,
        "output_type": "np",
    }


def _sized(size: int = 32, **more: object) -> Callable[[], dict[str, object]]:
    return lambda: {"height": size, "width": size, "output_type": "np", **more}


def embedding(*shape: int) -> torch.Tensor:
    """What a prior would have given."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _img2img() -> dict[str, object]:
    return {"image": parts.picture(), "strength": 0.99, "output_type": "np"}


def _inpaint() -> dict[str, object]:
    return {**_sized()(), "image": parts.picture(), "mask_image": parts.mask()}


def _controlled() -> dict[str, object]:
    return {**_sized()(), "image": parts.picture()}


def _pictured() -> dict[str, object]:
    return {"image": parts.picture(), "output_type": "np"}


def _marigold() -> dict[str, object]:
    return {**_pictured(), "processing_resolution": 0}


def _kontext() -> dict[str, object]:
    return {
        **_sized()(),
        **SHORT,
        "image": parts.picture(),
        "max_area": 32 * 32,
        "_auto_resize": False,
    }


def _kandinsky_img2img() -> dict[str, object]:
    embeddings = {"image_embeds": embedding(1, 32), "negative_image_embeds": embedding(1, 32)}
    return {**embeddings, **_sized(64)(), "image": parts.picture(64), "strength": 0.99}


def _animated() -> dict[str, object]:
    return {**_sized()(), "num_frames": 4}


def _video_to_video() -> dict[str, object]:
    frames = [Image.new("RGB", (16, 16), (40 * index, 80, 120)) for index in range(5)]
    return {
        "video": frames,
        "height": 16,
        "width": 16,
        "strength": 0.99,
        "output_type": "np",
        **SHORT,
    }


def _drawn(size: int = 16) -> Image.Image:
    return Image.new("RGB", (size, size), (200, 40, 40))


def _from_picture(frames: int) -> Callable[[], dict[str, object]]:
    return lambda: {**_video(frames)(), "image": _drawn()}


def _edited_video() -> dict[str, object]:
    video = _video_to_video()
    del video["strength"]
    return {**video, "num_frames": 5}


def _moved_picture() -> dict[str, object]:
    return {**_sized()(), "image": _drawn(32), "num_frames": 2}


def _latte() -> dict[str, object]:
    return {**_sized(16)(), "video_length": 1, "clean_caption": False}


def _sana_video() -> dict[str, object]:
    return {**_sized(32, **SHORT, **UNBINNED)(), "frames": 9, "complex_human_instruction": None}


SHORT_TEMPLATE = {"template": "a cat {}", "crop_start": 1}
SHORT = {"max_sequence_length": 16}
UNBINNED = {"use_resolution_binning": False, "clean_caption": False}
BOTH = ("num_inference_steps", "prior_num_inference_steps")

PIPELINES: dict[str, TinyPipeline] = {
    "sd15": TinyPipeline(images.sd15, _sized()),
    "sd15_img2img": TinyPipeline(images.sd15_img2img, _img2img),
    "sd15_inpaint": TinyPipeline(images.sd15_inpaint, _inpaint),
    "sd15_controlnet": TinyPipeline(images.sd15_controlnet, _controlled),
    "sdxl": TinyPipeline(images.sdxl, _sized()),
    "sdxl_img2img": TinyPipeline(images.sdxl_img2img, _img2img),
    "sdxl_refiner": TinyPipeline(images.sdxl_refiner, _img2img),
    "sd3": TinyPipeline(images.sd3, _sized(**SHORT)),
    "flux": TinyPipeline(images.flux, _sized(**SHORT)),
    "pixart_sigma": TinyPipeline(images.pixart_sigma, _sized(16, **SHORT, **UNBINNED)),
    "sana": TinyPipeline(images.sana, _sized(**SHORT, **UNBINNED, complex_human_instruction=None)),
    "lumina2": TinyPipeline(images.lumina2, _sized(**SHORT)),
    "hunyuandit": TinyPipeline(images.hunyuandit, _sized(16, use_resolution_binning=False)),
    "auraflow": TinyPipeline(images.auraflow, _sized(**SHORT)),
    "kandinsky22_prior": TinyPipeline(images.kandinsky22_prior, lambda: {"output_type": "np"}),
    "kandinsky22_decoder": TinyPipeline(
        images.kandinsky22_decoder,
        lambda: {
            "image_embeds": embedding(1, 32),
            "negative_image_embeds": embedding(1, 32),
            **_sized(64)(),
        },
        prompted=False,
    ),
    "kandinsky22": TinyPipeline(images.kandinsky22, _sized(64), steps=BOTH),
    "stable_cascade_prior": TinyPipeline(images.stable_cascade_prior, _sized(128)),
    "stable_cascade_decoder": TinyPipeline(
        images.stable_cascade_decoder,
        lambda: {"image_embeddings": embedding(1, 16, 4, 4), "output_type": "np"},
    ),
    "stable_cascade": TinyPipeline(images.stable_cascade, _sized(128), steps=BOTH),
    "wan": TinyPipeline(videos.wan, _video(9)),
    "cogvideox": TinyPipeline(videos.cogvideox, _video(8)),
    "ltx": TinyPipeline(videos.ltx, _video(9, 32)),
    "mochi": TinyPipeline(videos.mochi, _video(7)),
    "audioldm2": TinyPipeline(videos.audioldm2, lambda: {"output_type": "np"}),
}

# The rest of diffusers' families, for tables that cover them all; what every room's tests run on is
# PIPELINES alone.
FAMILIES: dict[str, TinyPipeline] = {
    "sd15_pag": TinyPipeline(relatives.sd15_pag, _sized()),
    "sd15_instruct_pix2pix": TinyPipeline(relatives.instruct_pix2pix, _pictured),
    "lcm": TinyPipeline(relatives.lcm, _sized()),
    "lcm_img2img": TinyPipeline(relatives.lcm_img2img, _img2img),
    "marigold_depth": TinyPipeline(relatives.marigold_depth, _marigold, prompted=False),
    "sdxl_pag": TinyPipeline(relatives.sdxl_pag, _sized()),
    "sdxl_inpaint": TinyPipeline(relatives.sdxl_inpaint, _inpaint),
    "sdxl_controlnet": TinyPipeline(relatives.sdxl_controlnet, _controlled),
    "sd3_img2img": TinyPipeline(relatives.sd3_img2img, _img2img),
    "sd3_inpaint": TinyPipeline(relatives.sd3_inpaint, _inpaint),
    "sd3_pag": TinyPipeline(relatives.sd3_pag, _sized(**SHORT)),
    "flux_img2img": TinyPipeline(
        relatives.flux_img2img, lambda: {**_img2img(), **_sized(**SHORT)()}
    ),
    "flux_inpaint": TinyPipeline(relatives.flux_inpaint, lambda: {**_inpaint(), **SHORT}),
    "flux_kontext": TinyPipeline(relatives.flux_kontext, _kontext),
    "flux_control": TinyPipeline(
        relatives.flux_control, lambda: {**_sized(**SHORT)(), "control_image": parts.picture()}
    ),
    "flux_fill": TinyPipeline(relatives.flux_fill, lambda: {**_inpaint(), **SHORT}),
    "chroma": TinyPipeline(families.chroma, _sized(**SHORT)),
    "bria": TinyPipeline(families.bria, _sized(**SHORT)),
    "qwenimage": TinyPipeline(families.qwenimage, _sized(**SHORT)),
    "hidream": TinyPipeline(families.hidream, _sized(**SHORT)),
    "z_image": TinyPipeline(families.z_image, _sized(**SHORT)),
    "ovis_image": TinyPipeline(families.ovis_image, _sized(**SHORT)),
    "cogview3": TinyPipeline(families.cogview3, _sized(16, **SHORT)),
    "cogview4": TinyPipeline(families.cogview4, _sized(16, **SHORT)),
    "lumina": TinyPipeline(families.lumina, _sized(**SHORT)),
    "pixart_alpha": TinyPipeline(relatives.pixart_alpha, _sized(16, **SHORT, **UNBINNED)),
    "pixart_sigma_pag": TinyPipeline(relatives.pixart_sigma_pag, _sized(16, **SHORT, **UNBINNED)),
    "hunyuandit_pag": TinyPipeline(
        relatives.hunyuandit_pag, _sized(16, use_resolution_binning=False)
    ),
    "sana_pag": TinyPipeline(
        relatives.sana_pag, _sized(**SHORT, **UNBINNED, complex_human_instruction=None)
    ),
    "sana_sprint": TinyPipeline(
        relatives.sana_sprint, _sized(**SHORT, **UNBINNED, complex_human_instruction=None)
    ),
    "flux2_klein": TinyPipeline(
        families.flux2_klein, lambda: {**_sized(**SHORT)(), "text_encoder_out_layers": (1, 2, 3)}
    ),
    "deepfloyd_if": TinyPipeline(
        families.deepfloyd_if, lambda: {**_sized(16)(), "clean_caption": False}
    ),
    "cosmos2_text_to_image": TinyPipeline(families.cosmos2_text_to_image, _sized(16, **SHORT)),
    "sana_video": TinyPipeline(more_videos.sana_video, _sana_video),
    "text_to_video_sd": TinyPipeline(more_videos.text_to_video_sd, _animated),
    "dit": TinyPipeline(
        families.dit, lambda: {"class_labels": [1], "output_type": "np"}, prompted=False
    ),
    "kandinsky22_img2img": TinyPipeline(
        relatives.kandinsky22_img2img, _kandinsky_img2img, prompted=False
    ),
    "kandinsky3": TinyPipeline(families.kandinsky3, _sized(64)),
    "animatediff": TinyPipeline(relatives.animatediff, _animated),
    "animatediff_pag": TinyPipeline(relatives.animatediff_pag, _animated),
    "cogvideox_video_to_video": TinyPipeline(relatives.cogvideox_video_to_video, _video_to_video),
    "ltx_image_to_video": TinyPipeline(
        relatives.ltx_image_to_video, lambda: {**_video(9, 32)(), "image": parts.picture()}
    ),
    "ltx_condition": TinyPipeline(
        relatives.ltx_condition, lambda: {**_video(9, 32)(), "image": parts.picture()}
    ),
    "latte": TinyPipeline(more_videos.latte, _latte),
    "allegro": TinyPipeline(more_videos.allegro, _video(8)),
    "hunyuan_video": TinyPipeline(
        more_videos.hunyuan_video, lambda: {**_video(9)(), "prompt_template": SHORT_TEMPLATE}
    ),
    "stable_audio": TinyPipeline(
        more_videos.stable_audio, lambda: {"audio_end_in_s": 0.5, "output_type": "np"}
    ),
    "wan_image_to_video": TinyPipeline(later.wan_image_to_video, _from_picture(9)),
    "wan_video_to_video": TinyPipeline(later.wan_video_to_video, _video_to_video),
    "wan_vace": TinyPipeline(later.wan_vace, _video(9)),
    "lucy_edit": TinyPipeline(later.lucy_edit, _edited_video),
    "skyreels_v2": TinyPipeline(later.skyreels_v2, _video(9)),
    "anyflow": TinyPipeline(later.anyflow, _video(9)),
    # its denoiser takes what is beyond 512 words for the picture's, and a short text for less
    "chronoedit": TinyPipeline(
        later.chronoedit, lambda: {**_from_picture(5)(), "max_sequence_length": 512}
    ),
    "cosmos_text_to_world": TinyPipeline(later.cosmos_text_to_world, _video(9, 32)),
    "stable_video_diffusion": TinyPipeline(
        later.stable_video_diffusion, _moved_picture, prompted=False
    ),
    "easy_animate": TinyPipeline(
        later.easy_animate, lambda: {**_sized(16)(), "num_frames": 5, "negative_prompt": "a cat"}
    ),
    "kandinsky5_video": TinyPipeline(later.kandinsky5_video, _video(5, 32)),
    "kandinsky5_image": TinyPipeline(later.kandinsky5_image, _sized(**SHORT)),
    "stable_unclip": TinyPipeline(later.stable_unclip, _sized(), steps=BOTH),
    "ldm_text_to_image": TinyPipeline(later.ldm_text_to_image, _sized()),
    "longcat_image": TinyPipeline(later.longcat_image, _sized(enable_prompt_rewrite=False)),
    "prx": TinyPipeline(later.prx, _sized(use_resolution_binning=False)),
    "hunyuan_image": TinyPipeline(later.hunyuan_image, _sized()),
    "wuerstchen": TinyPipeline(later.wuerstchen, _sized(128), steps=BOTH),
    "flux2": TinyPipeline(
        later.flux2, lambda: {**_sized(**SHORT)(), "text_encoder_out_layers": (1, 2)}
    ),
}

# More calls of these families, the newest ones, and diffusers' modular pipelines: for the matrix of
# fixes (`benchmarks.fix.breadth`).
BREADTH: dict[str, TinyPipeline] = {
    name: TinyPipeline(*variant)
    for name, variant in {
        **variants.VARIANTS,
        **recent.RECENT,
        **recent.MODULAR,
        **newest.NEWEST,
        **editing.EDITORS,
    }.items()
}
