"""Tiny components with random weights that many pipelines share; tokenizers are made in memory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 32  # of every text embedding
_LETTERS = [chr(code) for code in range(97, 123)]


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single letters: start 0, end 1."""
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *_LETTERS,
        *(letter + "</w>" for letter in _LETTERS),
    ]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def word_tokenizer(
    max_length: int = 16, kind: type = PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    """Words to numbers, for every other kind of text encoder: pad 0, end 1, unknown 2, start 3.

    `kind` is the class that it says it is, for the pipeline that asks.
    """
    words = ["<pad>", "</s>", "<unk>", "<s>", "a", "red", "apple", "cat"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
    # transformers 4 has another class for tokenizers of this library
    made.__class__ = getattr(transformers, f"{kind.__name__}Fast", kind)
    return made


def _clip_config(width: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=60,
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def clip_text() -> CLIPTextModel:
    return CLIPTextModel(_clip_config()).eval()


def clip_text_projected(width: int = WIDTH) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip_config(width)).eval()


def clip_vision(image_size: int = 32) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=16,
    )
    return CLIPVisionModelWithProjection(config).eval()


def t5(width: int = WIDTH) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=8, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    ).eval()


def umt5() -> UMT5EncoderModel:
    config = UMT5Config(vocab_size=8, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return UMT5EncoderModel(config).eval()


def gemma() -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
    )
    return Gemma2Model(config).eval()


def vae(latents: int = 4, channels: int = 3, **overrides: object) -> AutoencoderKL:
    """A 2x VAE."""
    config: dict[str, object] = {
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": latents,
        **overrides,
    }
    return AutoencoderKL(**config).eval()


def unet(in_channels: int = 4, **overrides: object) -> UNet2DConditionModel:
    config: dict[str, object] = {
        "sample_size": 16,
        "in_channels": in_channels,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
        **overrides,
    }
    return UNet2DConditionModel(**config).eval()


def ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def picture(size: int = 32) -> torch.Tensor:
    """A picture in [0, 1], shape (1, 3, size, size)."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def mask(size: int = 32) -> torch.Tensor:
    """Its upper half, shape (1, 1, size, size)."""
    area = torch.zeros(1, 1, size, size)
    area[:, :, : size // 2] = 1
    return area


def picture_processor(**settings: object) -> object:
    """The CLIP image processor that needs no torchvision: transformers 4 has it under the plain
    name."""
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    return kind(**settings)
