"""LoRAs beside a recipe: one place for an adapter, made before anything is compiled, and written
anew for each request.

The place is as large as the largest LoRA of the folder in every layer that any of them adapts, so
nothing is compiled after the start, whichever is asked for. Empty, it holds zeros, and a layer
gives what the layer under it gives; its two small products are paid in every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from halftime.base.errors import BadInput, DoesNotApply
from halftime.base.source import in_a_sentence
from halftime.pipeline.components import denoisers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

PLACE = "offered"  # the adapter's name
# As files name the two factors of a layer's change.
_FACTORS = {
    ".lora_A.weight": "down",
    ".lora.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora.up.weight": "up",
}
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_PARTS = ("transformer.", "unet.")


class Factors(NamedTuple):
    """What is added to one layer: `up @ down`, [outputs, rank] and [rank, inputs]."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]


Lora = Mapping[str, Factors]  # by the layer's name, with the component's before it


@dataclass
class LoraSwaps:
    """The LoRAs of a folder by name, and the place in the denoiser that takes one of them."""

    pipeline: DiffusionPipeline
    loras: Mapping[str, Lora]

    def make_place(self) -> None:
        """Put the empty place on; call it before anything is compiled."""
        self.pipeline.enable_lora_hotswap(target_rank=self.rank)
        self.pipeline.load_lora_weights(self.weights(None, 0.0), adapter_name=PLACE)

    @property
    def rank(self) -> int:
        """Of the place: the largest of any layer."""
        return max(factors.rank for lora in self.loras.values() for factors in lora.values())

    def write(self, name: str | None, scale: float) -> None:
        """Write a LoRA into the place; None empties it. Raises DoesNotApply where a fix keeps what
        was there."""
        weights = self.weights(name, scale)
        self.pipeline.load_lora_weights(weights, adapter_name=PLACE, hotswap=True)

    def weights(self, name: str | None, scale: float) -> dict[str, Tensor]:
        """The whole place as a file would hold it; layers that a LoRA leaves alone are zero."""
        lora = {} if name is None else self.loras[name]
        weights: dict[str, Tensor] = {}
        for layer, shape in self._layers().items():
            down = torch.zeros(self.rank, *shape.down.shape[1:], dtype=shape.down.dtype)
            up = torch.zeros(
                shape.up.shape[0], self.rank, *shape.up.shape[2:], dtype=shape.up.dtype
            )
            if layer in lora:
                factors = lora[layer]
                down[: factors.rank] = factors.down
                up[:, : factors.rank] = scale * factors.up
            weights |= {layer + _DOWN: down, layer + _UP: up}
        return weights

    def _layers(self) -> dict[str, Factors]:
        """Every layer that any of them adapts, with factors of its shape."""
        return {layer: factors for lora in self.loras.values() for layer, factors in lora.items()}

    @contextmanager
    def on(self, name: str | None, scale: float) -> Iterator[None]:
        """Within the block one of them is in the place; afterwards it is empty."""
        if name is None:
            yield
            return
        self.write(name, scale)
        try:
            yield
        finally:
            self.write(None, 0.0)


def open_swaps(pipeline: DiffusionPipeline, files: list[Path]) -> LoraSwaps:
    """The files, read, with their place on the denoiser. Raises BadInput where one cannot be
    swapped."""
    if not hasattr(pipeline, "enable_lora_hotswap"):
        raise BadInput(
            f"--loras and --recipe: {type(pipeline).__name__} cannot swap adapters. Start with one "
            "of the two."
        )
    swaps = LoraSwaps(pipeline, {file.stem: _read(pipeline, file) for file in files})
    try:
        swaps.make_place()
    except Exception as error:  # diffusers and peft raise what their code ran into
        raise BadInput(f"--loras: no place could be made: {in_a_sentence(error)}") from error
    return swaps


def check_swaps(swaps: LoraSwaps | None) -> None:
    """Once, under the recipe. Raises BadInput where a fix of it would not see another LoRA."""
    if swaps is None:
        return
    try:
        swaps.write(None, 0.0)
    except DoesNotApply as error:
        raise BadInput(f"--loras and --recipe: {in_a_sentence(error)}") from error


def _read(pipeline: DiffusionPipeline, file: Path) -> Lora:
    """A file in diffusers' own names, with the strength that it was trained for in its factors."""
    config = getattr(denoisers(pipeline)[0], "config", None)
    further = {"unet_config": config} if hasattr(pipeline, "unet") else {"return_alphas": True}
    try:
        state = pipeline.lora_state_dict(
            str(file.parent), weight_name=file.name, use_safetensors=True, **further
        )
    except Exception as error:
        raise BadInput(f"--loras: {file.name} does not fit: {in_a_sentence(error)}") from error
    weights, alphas = state[:2] if isinstance(state, tuple) else (state, None)
    return factors_of(file.name, weights, alphas or {})


def factors_of(name: str, weights: Mapping[str, Tensor], alphas: Mapping[str, float]) -> Lora:
    """Its factors by layer. Raises BadInput for what is not two factors of the denoiser's."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        ending = next((ending for ending in _FACTORS if key.endswith(ending)), None)
        if ending is None or not key.startswith(_PARTS):
            raise BadInput(
                f"--loras: {name} holds {key!r}, and beside a recipe a LoRA is swapped in the "
                "denoiser alone, as two factors a layer (lora_A and lora_B). Start without "
                "--recipe to offer it."
            )
        pairs.setdefault(key.removesuffix(ending), {})[_FACTORS[ending]] = weight
    return {
        layer: _scaled(layer, Factors(pair["down"], pair["up"]), alphas)
        for layer, pair in pairs.items()
    }


def _scaled(layer: str, factors: Factors, alphas: Mapping[str, float]) -> Factors:
    """With alpha / rank multiplied in, which peft would apply."""
    alpha = alphas.get(f"{layer}.alpha", factors.rank)
    return factors._replace(up=factors.up * (alpha / factors.rank))
