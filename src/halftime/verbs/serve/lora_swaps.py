"""LoRAs beside a recipe: one place for an adapter, made before anything is compiled, and written
anew for each request.

The place is as large as the largest LoRA of the folder in every layer that any of them adapts, so
nothing is compiled after the start, whichever is asked for. Empty, it holds zeros, and a layer
gives what the layer under it gives; its two small products are paid in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from halftime.base.errors import BadInput, DoesNotApply
from halftime.base.source import in_a_sentence
from halftime.pipeline.components import components, modules_of
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

PLACE = "offered"  # the adapter's name
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
Load = Callable[["DiffusionPipeline", Path, str], None]


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


def open_swaps(pipeline: DiffusionPipeline, files: list[Path], load: Load) -> LoraSwaps:
    """The files, read through `load`, with their place on the denoiser. Raises BadInput where one
    cannot be swapped."""
    if not hasattr(pipeline, "enable_lora_hotswap"):
        raise BadInput(
            f"--loras and --recipe: {type(pipeline).__name__} cannot swap adapters. Start with one "
            "of the two."
        )
    swaps = LoraSwaps(pipeline, {file.stem: _read(pipeline, file, load) for file in files})
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


def _read(pipeline: DiffusionPipeline, file: Path, load: Load) -> Lora:
    """What a file adds to each layer, as peft has it: with the strength that it was trained for.
    The pipeline is left without it."""
    load(pipeline, file, PLACE)
    try:
        return _factors(pipeline, file.name)
    finally:
        pipeline.unload_lora_weights()


def _factors(pipeline: DiffusionPipeline, file: str) -> Lora:
    """Raises BadInput for what is not two factors a layer of the denoiser."""
    names = {id(model): name for name, model in components(pipeline, "denoiser").items()}
    lora: dict[str, Factors] = {}
    for name, module in modules_of(pipeline).items():
        for path, layer in module.named_modules():
            adapter = hugging_face.low_rank_adapter(layer, PLACE)
            if adapter is None:
                continue
            if id(module) not in names or not adapter.plain:
                raise BadInput(
                    f"--loras: {file} adapts {name}.{path}, and beside a recipe a LoRA is swapped "
                    "in the denoiser alone, as two factors a layer. Start without --recipe to "
                    "offer it."
                )
            lora[f"{name}.{path}"] = Factors(adapter.down, adapter.scaling * adapter.up)
    return lora
