"""Built-in architectures: classes and configurations of model cards, published parameter counts.

All of it is data; `components.build` makes the module on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from halftime.records import Json
from halftime.records.gpus import plain

Role = Literal["denoiser", "vae", "vae_encoder", "text_encoder"]


@dataclass(frozen=True)
class Architecture:
    """One network; `config` holds the arguments of its configuration."""

    role: Role
    class_name: str
    config: dict[str, Json] = field(default_factory=dict)
    library: Literal["diffusers", "transformers"] = "diffusers"
    published_parameters: float | None = None  # as its authors print it
    digits: int = 3  # significant digits of the published count
    source: str = ""


def _list(*items: Json) -> Json:
    """A list whose type is that of a file's."""
    return cast("Json", list(items))


_SD_UNET: dict[str, Json] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_SDXL_UNET: dict[str, Json] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": _list("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": _list("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
_PRUNED: dict[str, Json] = {"mid_block_type": "UNetMidBlock2D"}


_KL_VAE: dict[str, Json] = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "down_block_types": _list(*["DownEncoderBlock2D"] * 4),
    "up_block_types": _list(*["UpDecoderBlock2D"] * 4),
}
_SIXTEEN: dict[str, Json] = {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_SD3: dict[str, Json] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_PIXART: dict[str, Json] = {
    "sample_size": 128,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
_DC_AE: dict[str, Json] = {
    "latent_channels": 32,
    "encoder_block_types": _list(*["ResBlock"] * 3, *["EfficientViTBlock"] * 3),
    "decoder_block_types": _list(*["ResBlock"] * 3, *["EfficientViTBlock"] * 3),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
}
_T5: dict[str, Json] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "use_cache": False,
}


def _decoder(
    hidden: int, inner: int, layers: int, heads: int, keys: int, words: int
) -> dict[str, Json]:
    """A language model whose hidden states a pipeline takes as a prompt's."""
    return {
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": 128,
    }


def _clip(hidden: int, layers: int, heads: int, act: str = "gelu") -> dict[str, Json]:
    return {
        "vocab_size": 49408,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": hidden,
        "hidden_act": act,
    }


def _unet(config: dict[str, Json], parameters: float, source: str, digits: int = 3) -> Architecture:
    return Architecture(
        "denoiser", "UNet2DConditionModel", config, "diffusers", parameters, digits, source
    )


ARCHITECTURES: dict[str, Architecture] = {
    "sd15_unet": _unet(_SD_UNET, 859.520e6, "T-GATE README: params 859.520M", 6),
    "sd15_inpaint_unet": _unet(
        {**_SD_UNET, "in_channels": 9}, 859.535e6, "SD 1.5 inpainting card: 9 channels", 6
    ),
    "bk_sdm_base_unet": _unet(
        {**_SD_UNET, "layers_per_block": 1}, 0.58e9, "BK-SDM README: 0.58B", 2
    ),
    "bk_sdm_small_unet": _unet(
        {**_SD_UNET, "layers_per_block": 1, "mid_block_type": None},
        0.49e9,
        "BK-SDM README: 0.49B (paper: 482M)",
        1,
    ),
    "sd15_controlnet": Architecture(
        "denoiser",
        "ControlNetModel",
        {"cross_attention_dim": 768, "attention_head_dim": 8},
        "diffusers",
        361e6,
        3,
        "ControlNet README: 361M",
    ),
    "sd21_unet": _unet(
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        865e6,
        "SD 2 card: 865M",
        3,
    ),
    "sdxl_unet": _unet(_SDXL_UNET, 2.570e9, "T-GATE README: params 2.570B", 3),
    "sdxl_refiner_unet": _unet(
        {
            **_SDXL_UNET,
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": [
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ],
            "up_block_types": [
                "UpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
                "UpBlock2D",
            ],
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "projection_class_embeddings_input_dim": 2560,
        },
        2.3e9,
        "SDXL report: 2.3B",
        2,
    ),
    "ssd1b_unet": _unet(
        {
            **_SDXL_UNET,
            **_PRUNED,
            "transformer_layers_per_block": _list(1, _list(2, 2), _list(4, 4)),
            "reverse_transformer_layers_per_block": _list(_list(4, 4, 10), _list(2, 1, 1), 1),
        },
        1.33e9,
        "SSD-1B paper: 1.33B",
        3,
    ),
    "vega_unet": _unet(
        {
            **_SDXL_UNET,
            **_PRUNED,
            "transformer_layers_per_block": _list(1, _list(1, 1), _list(2, 2)),
            "reverse_transformer_layers_per_block": _list(_list(2, 2, 2), _list(1, 1, 1), 1),
        },
        0.745e9,
        "Segmind-Vega card: 745M",
        3,
    ),
    "sd3_medium": Architecture(
        "denoiser",
        "SD3Transformer2DModel",
        {**_SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
        "diffusers",
        2.03e9,
        3,
        "SD3 paper: 2.03B",
    ),
    "sd35_medium": Architecture(
        "denoiser",
        "SD3Transformer2DModel",
        {
            **_SD3,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)),
        },
        "diffusers",
        2.24e9,
        3,
        "the published checkpoint: 2.24B; its card rounds to 2.5B",
    ),
    "sd35_large": Architecture(
        "denoiser",
        "SD3Transformer2DModel",
        {
            **_SD3,
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "qk_norm": "rms_norm",
        },
        "diffusers",
        8.06e9,
        3,
        "SD 3.5 Large card: 8.1B",
    ),
    "flux": Architecture(
        "denoiser",
        "FluxTransformer2DModel",
        {"guidance_embeds": True},
        "diffusers",
        11.9e9,
        3,
        "FLUX.1 repository: 11.9B",
    ),
    "flux_schnell": Architecture(
        "denoiser",
        "FluxTransformer2DModel",
        {"guidance_embeds": False},
        "diffusers",
        11.9e9,
        3,
        "FLUX.1 repository: 11.9B",
    ),
    "pixart_alpha": Architecture(
        "denoiser",
        "PixArtTransformer2DModel",
        {**_PIXART, "use_additional_conditions": True},
        "diffusers",
        611.35e6,
        3,
        "T-GATE README: params 611.350M",
    ),
    "pixart_sigma": Architecture(
        "denoiser",
        "PixArtTransformer2DModel",
        _PIXART,
        "diffusers",
        0.61e9,
        2,
        "PixArt-Sigma paper: 0.6B",
    ),
    "sana_1600m": Architecture(
        "denoiser",
        "SanaTransformer2DModel",
        {},
        "diffusers",
        1604e6,
        4,
        "Sana card: 1604M",
    ),
    "wan21_1_3b": Architecture(
        "denoiser",
        "WanTransformer3DModel",
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        "diffusers",
        1.42e9,
        3,
        "the published checkpoint: 1.42B; its name says 1.3B",
    ),
    "wan21_14b": Architecture(
        "denoiser",
        "WanTransformer3DModel",
        {},
        "diffusers",
        14.3e9,
        3,
        "the published checkpoint: 14.3B",
    ),
    "cogvideox_2b": Architecture(
        "denoiser",
        "CogVideoXTransformer3DModel",
        {},
        "diffusers",
        1.69e9,
        3,
        "the published checkpoint: 1.69B",
    ),
    "cogvideox_5b": Architecture(
        "denoiser",
        "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        "diffusers",
        5.57e9,
        3,
        "the published checkpoint: 5.57B",
    ),
    "ltx_video": Architecture(
        "denoiser",
        "LTXVideoTransformer3DModel",
        {},
        "diffusers",
        1.9e9,
        2,
        "LTX-Video paper: 1.9B",
    ),
    "flux2": Architecture(
        "denoiser",
        "Flux2Transformer2DModel",
        {},
        "diffusers",
        32.2e9,
        2,
        "FLUX.2 [dev] card: 32B",
    ),
    "flux2_klein_4b": Architecture(
        "denoiser",
        "Flux2Transformer2DModel",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        "diffusers",
        3.9e9,
        1,
        "FLUX.2 [klein] card: 4B",
    ),
    "flux2_klein_9b": Architecture(
        "denoiser",
        "Flux2Transformer2DModel",
        {
            "num_layers": 8,
            "num_single_layers": 24,
            "num_attention_heads": 32,
            "joint_attention_dim": 12288,
            "guidance_embeds": False,
        },
        "diffusers",
        9.1e9,
        1,
        "FLUX.2 [klein] card: 9B",
    ),
    "qwen_image": Architecture(
        "denoiser",
        "QwenImageTransformer2DModel",
        {},
        "diffusers",
        20.4e9,
        2,
        "Qwen-Image report: 20B",
    ),
    "flux2_vae": Architecture("vae", "AutoencoderKLFlux2"),
    "qwen_image_vae": Architecture(
        "vae", "AutoencoderKLQwenImage", {}, "diffusers", 127e6, 3, "Wan's VAE: 127M"
    ),
    "mistral3_24b": Architecture(
        "text_encoder",
        "MistralModel",
        _decoder(5120, 32768, 40, 32, 8, 131072),
        "transformers",
        23.6e9,
        2,
        "Mistral Small 3 card: 24B with its head",
    ),
    "qwen25_7b": Architecture(
        "text_encoder",
        "Qwen2Model",
        _decoder(3584, 18944, 28, 28, 4, 152064),
        "transformers",
        7.07e9,
        2,
        "Qwen2.5 7B without its head; the vision tower, which no prompt runs, is left out",
    ),
    "qwen3_4b": Architecture(
        "text_encoder",
        "Qwen3Model",
        _decoder(2560, 9728, 36, 32, 8, 151936),
        "transformers",
        4.02e9,
        2,
        "Qwen3 4B card: 4.0B",
    ),
    "qwen3_8b": Architecture(
        "text_encoder",
        "Qwen3Model",
        _decoder(4096, 12288, 36, 32, 8, 151936),
        "transformers",
        7.57e9,
        2,
        "Qwen3 8B card: 8.2B with its head",
    ),
    "sd_vae": Architecture(
        "vae", "AutoencoderKL", _KL_VAE, "diffusers", 83.65e6, 4, "SD VAE: 83.65M"
    ),
    "sdxl_vae": Architecture(
        "vae", "AutoencoderKL", _KL_VAE, "diffusers", 83.65e6, 4, "SDXL VAE: 83.65M"
    ),
    "flux_vae": Architecture(
        "vae", "AutoencoderKL", {**_KL_VAE, **_SIXTEEN}, "diffusers", 83.8e6, 3, "FLUX: 83.8M"
    ),
    "sd3_vae": Architecture(
        "vae", "AutoencoderKL", {**_KL_VAE, **_SIXTEEN}, "diffusers", 83.8e6, 3, "SD3 VAE: 83.8M"
    ),
    "sd_vae_encoder": Architecture("vae_encoder", "AutoencoderKL", _KL_VAE),
    "taesd": Architecture(
        "vae", "AutoencoderTiny", {}, "diffusers", 2.4e6, 2, "TAESD README: 1.22M each way"
    ),
    "taef1": Architecture(
        "vae", "AutoencoderTiny", {"latent_channels": 16}, "diffusers", 2.46e6, 3, "TAEF1: 2.46M"
    ),
    "sana_vae": Architecture(
        "vae", "AutoencoderDC", _DC_AE, "diffusers", 312e6, 3, "DC-AE f32c32: 312M"
    ),
    "wan_vae": Architecture(
        "vae", "AutoencoderKLWan", {}, "diffusers", 127e6, 3, "Wan 2.1 report: 127M"
    ),
    "cogvideox_vae": Architecture(
        "vae", "AutoencoderKLCogVideoX", {}, "diffusers", 216e6, 3, "checkpoint: 216M"
    ),
    "ltx_vae": Architecture(
        "vae", "AutoencoderKLLTXVideo", {}, "diffusers", 419e6, 3, "checkpoint: 419M"
    ),
    "clip_l": Architecture(
        "text_encoder",
        "CLIPTextModel",
        _clip(768, 12, 12, "quick_gelu"),
        "transformers",
        123.06e6,
        5,
        "CLIP ViT-L/14 text tower: 123.06M",
    ),
    "clip_g": Architecture(
        "text_encoder",
        "CLIPTextModelWithProjection",
        _clip(1280, 32, 20),
        "transformers",
        694.66e6,
        5,
        "OpenCLIP bigG text tower: 694.66M",
    ),
    "clip_h": Architecture(
        "text_encoder",
        "CLIPTextModel",
        {**_clip(1024, 23, 16), "projection_dim": 512},
        "transformers",
        340.39e6,
        5,
        "OpenCLIP H text tower, 23 layers: 340.39M",
    ),
    "t5_xxl": Architecture(
        "text_encoder",
        "T5EncoderModel",
        _T5,
        "transformers",
        4.76e9,
        3,
        "T5 v1.1 XXL encoder: 4.76B",
    ),
    "umt5_xxl": Architecture(
        "text_encoder",
        "UMT5EncoderModel",
        {**_T5, "vocab_size": 256384},
        "transformers",
        5.68e9,
        3,
        "UMT5 XXL encoder: 5.68B",
    ),
    "gemma2_2b": Architecture(
        "text_encoder",
        "Gemma2Model",
        {
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
        "transformers",
        2.61e9,
        3,
        "Gemma 2 report: 2.61B",
    ),
}

# Other names in use, lower case and without punctuation, for the same networks.
ALIASES: dict[str, str] = {
    "sd14unet": "sd15_unet",
    "sdunet": "sd15_unet",
    "unetsd15": "sd15_unet",
    "sd2unet": "sd21_unet",
    "sdxlbaseunet": "sdxl_unet",
    "sdxlrefiner": "sdxl_refiner_unet",
    "refinerunet": "sdxl_refiner_unet",
    "ssd1b": "ssd1b_unet",
    "vega": "vega_unet",
    "segmindvega": "vega_unet",
    "sd3": "sd3_medium",
    "sd3m": "sd3_medium",
    "sd3transformer": "sd3_medium",
    "sd35": "sd35_large",
    "sd35l": "sd35_large",
    "sd35m": "sd35_medium",
    "fluxdev": "flux",
    "flux1dev": "flux",
    "flux1": "flux",
    "fluxtransformer": "flux",
    "schnell": "flux_schnell",
    "flux1schnell": "flux_schnell",
    "pixart": "pixart_sigma",
    "pixartsigmatransformer": "pixart_sigma",
    "pixartalphatransformer": "pixart_alpha",
    "sana": "sana_1600m",
    "sana16b": "sana_1600m",
    "sanatransformer": "sana_1600m",
    "dcae": "sana_vae",
    "wan": "wan21_1_3b",
    "wan13b": "wan21_1_3b",
    "wan2113b": "wan21_1_3b",
    "wan14b": "wan21_14b",
    "cogvideox": "cogvideox_5b",
    "cogvideox2b": "cogvideox_2b",
    "cogvideox5b": "cogvideox_5b",
    "cog2b": "cogvideox_2b",
    "cog5b": "cogvideox_5b",
    "ltx": "ltx_video",
    "ltxtransformer": "ltx_video",
    "vae": "sd_vae",
    "sdvae": "sd_vae",
    "sd15vae": "sd_vae",
    "sd21vae": "sd_vae",
    "pixartvae": "sdxl_vae",
    "sdxlvaeencode": "sd_vae_encoder",
    "sdvaeencode": "sd_vae_encoder",
    "sdxlvaeencoder": "sd_vae_encoder",
    "vaeencoder": "sd_vae_encoder",
    "sd35vae": "sd3_vae",
    "fluxvaedecode": "flux_vae",
    "taesdxl": "taesd",
    "tinyvae": "taesd",
    "taesd3": "taef1",
    "clipvitl": "clip_l",
    "clipbigg": "clip_g",
    "clipvitbigg": "clip_g",
    "openclipg": "clip_g",
    "openclip": "clip_h",
    "clipvith": "clip_h",
    "t5": "t5_xxl",
    "t5xxl": "t5_xxl",
    "umt5": "umt5_xxl",
    "gemma2": "gemma2_2b",
    "gemma": "gemma2_2b",
    "controlnet": "sd15_controlnet",
    "bksdmsmall": "bk_sdm_small_unet",
    "bksdmbase": "bk_sdm_base_unet",
}


_BY_PLAIN = {plain(name): name for name in ARCHITECTURES}


def canonical(name: str) -> str | None:
    """The built-in architecture of that name or alias, or None."""
    return _BY_PLAIN.get(plain(name)) or ALIASES.get(plain(name))
