"""On CUDA: the denoiser's forward pass as a graph for each batch size, so that a step costs the
host one launch.

Graphs are captured before ready, while it is shown that pictures are the pipeline's own; then
`seal` ends it, and what comes in another shape runs without one. So memory is bounded: by
`MOST_BYTES` of what the captures reserved, and by the batch sizes, sizes and branches that the
certificate lists. A graph knows where the weights lie: where they move, all are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from halftime.base import units
from halftime.base.errors import first_line
from halftime.fix.loop_graph import Loop as Graph
from halftime.fix.loop_graph import capture, give_back, release, weights_of
from halftime.upstream import pytorch

MOST_BYTES = 2 * 2**30


def reserved() -> int:
    """Bytes that torch has taken of this device."""
    return int(torch.cuda.memory_reserved())


@dataclass
class StepGraphs:
    """In the place of the denoiser. `why` says why nothing is captured any more; '': it is."""

    denoiser: nn.Module
    capture: Callable[[Graph, list[Tensor]], Graph] = capture
    reserved: Callable[[], int] = reserved
    most_bytes: int = MOST_BYTES
    graphs: dict[Hashable, Graph] = field(default_factory=dict)
    bytes: int = 0
    why: str = ""
    _weights: tuple[object, ...] = ()

    def __call__(self, *args: object, **kwargs: object) -> tuple[Tensor]:
        """The denoiser's call, through its graph where there is one."""
        leaves, spec = pytorch.tree_flatten((args, kwargs))
        values = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        device = max((value.device for value in values), key=lambda device: device.type == "cuda")
        values = [value.to(device) for value in values]  # a number on the host is read once
        constants = tuple(repr(leaf) for leaf in leaves if not isinstance(leaf, Tensor))
        shapes = tuple((value.shape, value.stride(), value.dtype) for value in values)
        key = (spec, constants, shapes)

        def forward(tensors: list[Tensor]) -> Tensor:
            remaining = iter(tensors)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            positional, named = pytorch.tree_unflatten(filled, spec)
            result: Tensor = self.denoiser(*positional, **named)[0]
            return result

        graph = self.graphs.get(key) or self._captured(key, forward, values)
        return ((graph or forward)(values),)

    def _captured(self, key: Hashable, forward: Graph, values: list[Tensor]) -> Graph | None:
        if self.why:
            return None
        before = self.reserved()
        try:
            graph = self.capture(forward, values)
        except (RuntimeError, torch.AcceleratorError) as error:
            self.release(f"a forward pass could not be captured ({first_line(error)})")
            return None
        self.graphs[key], self._weights = graph, weights_of(self.denoiser)
        self.bytes += max(0, self.reserved() - before)
        if self.bytes > self.most_bytes:
            self.why = f"the graphs hold {units.size(self.bytes)}"
        return graph

    def seal(self) -> None:
        """From now on nothing is captured: the server is ready."""
        self.why = self.why or "the server is ready"

    def look(self) -> None:
        """After another's work on the denoiser: drop the graphs where its weights have moved."""
        if self.graphs and weights_of(self.denoiser) != self._weights:
            self.release("the weights have moved")

    def release(self, why: str) -> None:
        """Give the graphs' memory back; from now on the denoiser runs without them."""
        while self.graphs:
            release(self.graphs.popitem()[1])
        self.bytes, self.why = 0, why
        give_back()
