"""Tiny random pipelines of many diffusers classes: `PIPELINES['flux'].build()`.

Each is built anew and seeded, so two builds are equal; each runs whole on the CPU in well under a few seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline

from tiny_pipelines import images, parts, videos

PROMPT = "a red apple"


@dataclass(frozen=True)
class TinyPipeline:
    """How to build one, and what its call needs beside a prompt, a number of steps and a generator."""

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
        lambda: {"image_embeds": embedding(1, 32), "negative_image_embeds": embedding(1, 32), **_sized(64)()},
        prompted=False,
    ),
    "kandinsky22": TinyPipeline(images.kandinsky22, _sized(64), steps=BOTH),
    "stable_cascade_prior": TinyPipeline(images.stable_cascade_prior, _sized(128)),
    "stable_cascade_decoder": TinyPipeline(
        images.stable_cascade_decoder, lambda: {"image_embeddings": embedding(1, 16, 4, 4), "output_type": "np"}
    ),
    "stable_cascade": TinyPipeline(images.stable_cascade, _sized(128), steps=BOTH),
    "wan": TinyPipeline(videos.wan, _video(9)),
    "cogvideox": TinyPipeline(videos.cogvideox, _video(8)),
    "ltx": TinyPipeline(videos.ltx, _video(9, 32)),
    "mochi": TinyPipeline(videos.mochi, _video(7)),
    "audioldm2": TinyPipeline(videos.audioldm2, lambda: {"output_type": "np"}),
}
