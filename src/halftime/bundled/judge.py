"""A small CLIP-style judge, trained contrastively on emoji-xl's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from halftime import bundled

SIDE = 64  # pixels; pictures of any size are reduced to it
WEIGHTS = "model.safetensors"


class Towers(nn.Module):
    """A convolutional picture tower, and a bag of words with their order for the text tower."""

    def __init__(self, vocabulary: int, width: int = 96, length: int = 32) -> None:
        super().__init__()
        channels = (3, 24, 40, 56, 80)
        self.picture = nn.Sequential(
            *(layer for pair in pairwise(channels) for layer in _halving(*pair)),
            nn.Flatten(),
            nn.Linear(80 * 4 * 4, width),
        )
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        self.text = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def picture_features(self, pictures: Tensor) -> Tensor:
        """N, 3, SIDE, SIDE in -1..1 to N, width, of length one."""
        return F.normalize(self.picture(pictures), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """N, length to N, width, of length one."""
        words = F.gelu(self.words(ids) + self.places) * mask[..., None]
        return F.normalize(self.text(words.sum(1) / mask.sum(1, keepdim=True) ** 0.5), dim=-1)


def _halving(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, n_out, 3, 2, 1), nn.GroupNorm(8, n_out), nn.SiLU(), _Residual(n_out)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(8, channels), nn.SiLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


class Judge:
    """Scores pictures against prompts. Its scores mean something inside the vocabulary alone."""

    def __init__(self, towers: Towers, tokenizer: CLIPTokenizer) -> None:
        self.towers = towers.eval()
        self.tokenizer = tokenizer
        self._prompt_features: Tensor | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        towers = Towers(**config)
        towers.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
        return cls(towers, CLIPTokenizer.from_pretrained(folder.parent / "model" / "tokenizer"))

    @torch.inference_mode()
    def image_features(self, images: Sequence[Image]) -> Tensor:
        """One row a picture, of length one."""
        return self.towers.picture_features(torch.stack([_tensor(image) for image in images]))

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """One row a prompt, of length one."""
        return self.towers.text_features(*tokens(self.tokenizer, prompts))

    def scores(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        """How well each picture agrees with its own prompt: a cosine, higher is better."""
        if len(images) != len(prompts):
            raise ValueError(
                f"{len(images)} pictures but {len(prompts)} prompts: give one prompt a picture."
            )
        return [
            float(s) for s in (self.image_features(images) * self.text_features(prompts)).sum(-1)
        ]

    def aesthetic(self, images: Sequence[Image]) -> list[float]:
        """A stand-in for an aesthetic score: the cosine with the nearest prompt of the test set.

        It rewards pictures that clearly are something. It knows nothing of taste.
        """
        if self._prompt_features is None:
            self._prompt_features = self.text_features(
                [prompt.text for prompt in bundled.prompts()]
            )
        return [float(s) for s in (self.image_features(images) @ self._prompt_features.T).amax(-1)]


def tokens(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids, and ones where a token is not padding."""
    batch = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask.float()


def _tensor(image: Image) -> Tensor:
    small = image.convert("RGB").resize((SIDE, SIDE), Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1
