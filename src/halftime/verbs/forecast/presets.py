"""Built-in pipelines: the architectures of each, and the defaults of its pipeline class."""

from __future__ import annotations

from dataclasses import dataclass

from halftime.records.gpus import plain


@dataclass(frozen=True)
class Preset:
    """One pipeline. `text` pairs a text encoder with the tokens that the pipeline pads to."""

    denoiser: str
    vae: str
    text: tuple[tuple[str, int], ...]
    size: tuple[int, int]  # width, height
    steps: int
    guidance: bool  # classifier-free: the denoiser runs on twice the rows
    dtype: str
    vae_dtype: str | None = None  # where the pipeline decodes in another one
    frames: int = 1
    denoiser_tokens: int = 0  # of the prompt, as the denoiser sees it; 0 is its own default


_CLIP = (("clip_l", 77),)
_SDXL_TEXT = (("clip_l", 77), ("clip_g", 77))
_SD3_TEXT = (("clip_l", 77), ("clip_g", 77), ("t5_xxl", 256))
_FLUX_TEXT = (("clip_l", 77), ("t5_xxl", 512))

PRESETS: dict[str, Preset] = {
    "sd15": Preset("sd15_unet", "sd_vae", _CLIP, (512, 512), 50, True, "fp16"),
    "sd21": Preset("sd21_unet", "sd_vae", (("clip_h", 77),), (768, 768), 50, True, "fp16"),
    # fp16 SDXL decodes in fp32 (force_upcast), since its VAE overflows in fp16.
    "sdxl": Preset("sdxl_unet", "sdxl_vae", _SDXL_TEXT, (1024, 1024), 50, True, "fp16", "fp32"),
    "sdxl-refiner": Preset(
        "sdxl_refiner_unet", "sdxl_vae", (("clip_g", 77),), (1024, 1024), 15, True, "fp16", "fp32"
    ),
    "ssd-1b": Preset("ssd1b_unet", "sdxl_vae", _SDXL_TEXT, (1024, 1024), 50, True, "fp16", "fp32"),
    "vega": Preset("vega_unet", "sdxl_vae", _SDXL_TEXT, (1024, 1024), 50, True, "fp16", "fp32"),
    "sd3-medium": Preset("sd3_medium", "sd3_vae", _SD3_TEXT, (1024, 1024), 28, True, "fp16"),
    "sd3.5-medium": Preset("sd35_medium", "sd3_vae", _SD3_TEXT, (1024, 1024), 40, True, "bf16"),
    "sd3.5-large": Preset("sd35_large", "sd3_vae", _SD3_TEXT, (1024, 1024), 28, True, "bf16"),
    "flux-dev": Preset("flux", "flux_vae", _FLUX_TEXT, (1024, 1024), 28, False, "bf16"),
    "flux-schnell": Preset(
        "flux_schnell",
        "flux_vae",
        (("clip_l", 77), ("t5_xxl", 256)),
        (1024, 1024),
        4,
        False,
        "bf16",
        denoiser_tokens=256,
    ),
    "flux2-dev": Preset(
        "flux2",
        "flux2_vae",
        (("mistral3_24b", 512),),
        (1024, 1024),
        50,
        False,
        "bf16",
        denoiser_tokens=512,
    ),
    "flux2-klein-4b": Preset(
        "flux2_klein_4b",
        "flux2_vae",
        (("qwen3_4b", 512),),
        (1024, 1024),
        4,
        False,
        "bf16",
        denoiser_tokens=512,
    ),
    "flux2-klein-9b": Preset(
        "flux2_klein_9b",
        "flux2_vae",
        (("qwen3_8b", 512),),
        (1024, 1024),
        4,
        False,
        "bf16",
        denoiser_tokens=512,
    ),
    "qwen-image": Preset(
        "qwen_image",
        "qwen_image_vae",
        (("qwen25_7b", 256),),
        (1024, 1024),
        50,
        True,
        "bf16",
        denoiser_tokens=256,
    ),
    "pixart-alpha": Preset(
        "pixart_alpha",
        "sdxl_vae",
        (("t5_xxl", 120),),
        (1024, 1024),
        20,
        True,
        "fp16",
        denoiser_tokens=120,
    ),
    "pixart-sigma": Preset(
        "pixart_sigma",
        "sdxl_vae",
        (("t5_xxl", 300),),
        (1024, 1024),
        20,
        True,
        "fp16",
        denoiser_tokens=300,
    ),
    "sana": Preset(
        "sana_1600m",
        "sana_vae",
        (("gemma2_2b", 300),),
        (1024, 1024),
        20,
        True,
        "bf16",
        denoiser_tokens=300,
    ),
    "wan2.1-1.3b": Preset(
        "wan21_1_3b", "wan_vae", (("umt5_xxl", 512),), (832, 480), 50, True, "bf16", "fp32", 81
    ),
    "wan2.1-14b": Preset(
        "wan21_14b", "wan_vae", (("umt5_xxl", 512),), (832, 480), 50, True, "bf16", "fp32", 81
    ),
    "cogvideox-2b": Preset(
        "cogvideox_2b", "cogvideox_vae", (("t5_xxl", 226),), (720, 480), 50, True, "fp16", frames=49
    ),
    "cogvideox-5b": Preset(
        "cogvideox_5b", "cogvideox_vae", (("t5_xxl", 226),), (720, 480), 50, True, "bf16", frames=49
    ),
    "ltx-video": Preset(
        "ltx_video", "ltx_vae", (("t5_xxl", 128),), (704, 512), 50, True, "bf16", frames=161
    ),
}

# Other names, lower case and without punctuation; hub ids are looked up by what stands after the
# slash.
_ALIASES: dict[str, str] = {
    "sd14": "sd15",
    "stablediffusionv15": "sd15",
    "stablediffusion15": "sd15",
    "stablediffusionv14": "sd15",
    "sd2": "sd21",
    "stablediffusion21": "sd21",
    "stablediffusion2": "sd21",
    "sdxlbase": "sdxl",
    "stablediffusionxlbase10": "sdxl",
    "stablediffusionxl": "sdxl",
    "refiner": "sdxl-refiner",
    "stablediffusionxlrefiner10": "sdxl-refiner",
    "segmindvega": "vega",
    "sd3": "sd3-medium",
    "stablediffusion3medium": "sd3-medium",
    "stablediffusion3mediumdiffusers": "sd3-medium",
    "sd35": "sd3.5-large",
    "stablediffusion35large": "sd3.5-large",
    "stablediffusion35medium": "sd3.5-medium",
    "flux": "flux-dev",
    "flux1": "flux-dev",
    "flux1dev": "flux-dev",
    "flux1schnell": "flux-schnell",
    "schnell": "flux-schnell",
    "flux2": "flux2-dev",
    "flux2klein4b": "flux2-klein-4b",
    "flux2klein9b": "flux2-klein-9b",
    "pixart": "pixart-sigma",
    "pixartsigmaxl21024ms": "pixart-sigma",
    "pixartxl21024ms": "pixart-alpha",
    "sana1600m": "sana",
    "wan": "wan2.1-1.3b",
    "wan21": "wan2.1-1.3b",
    "wan13b": "wan2.1-1.3b",
    "wan14b": "wan2.1-14b",
    "wan21t2v13bdiffusers": "wan2.1-1.3b",
    "wan21t2v14bdiffusers": "wan2.1-14b",
    "cogvideox": "cogvideox-5b",
    "ltx": "ltx-video",
}
_BY_PLAIN = {plain(name): name for name in PRESETS}


def preset_named(name: str) -> str | None:
    """The preset of that name, alias or hub id, or None."""
    word = plain(name.rsplit("/", 1)[-1])
    return _BY_PLAIN.get(word) or _ALIASES.get(word)
