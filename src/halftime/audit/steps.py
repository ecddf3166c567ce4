"""What every denoising step repeats on the host, and what differs between steps: both break capture and compile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from halftime.audit.sites import Frame, innermost
from halftime.audit.tensor import ShadowTensor
from halftime.records import Finding

FACTORIES = {
    "aten::arange", "aten::zeros", "aten::ones", "aten::full", "aten::linspace", "aten::scalar_tensor", "aten::eye",
}  # fmt: skip
WORTH_SAYING = 4  # in a step
PLACES = 3


@dataclass
class Steps:
    """What each step of the loop did, as far as it matters here."""

    sequences: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # step -> hash of operations and shapes
    rebuilt: dict[Frame, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    converted: dict[Frame, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def observe(self, step: int, name: str, flat: Sequence[object], kwargs: dict[str, object]) -> None:
        """One operation on the device within a step."""
        shapes = tuple(tuple(value.shape) for value in flat if isinstance(value, torch.Tensor))
        self.sequences[step] = hash((self.sequences[step], name, shapes))
        if name in FACTORIES:
            self.rebuilt[innermost()][step] += 1
        elif name == "aten::_to_copy" and _changes_precision(flat, kwargs.get("dtype")):
            self.converted[innermost()][step] += 1

    def findings(self) -> tuple[Finding, ...]:
        """What is worth saying."""
        return tuple(self._findings())

    def _findings(self) -> Iterator[Finding]:
        # The first step fills caches and the last one ends the schedule: what is between them is the rule.
        between = [sequence for step, sequence in sorted(self.sequences.items())][1:-1]
        kinds = len(set(between))
        if kinds > 1:
            yield Finding(
                id="steps-differ",
                stage="denoise",
                message=f"operations or shapes differ between steps: {kinds} kinds among {len(between)} steps "
                "between the first and the last; each kind is compiled and captured anew",
            )
        for name, words, found in (
            ("tensors-rebuilt", "tensors are made anew", self.rebuilt),
            ("dtype-ping-pong", "tensors change their precision", self.converted),
        ):
            yield from self._repeated(name, words, found, len(self.sequences))

    def _repeated(self, name: str, words: str, found: dict[Frame, Counter[int]], steps: int) -> Iterator[Finding]:
        every = {frame: min(counts.values()) for frame, counts in found.items() if len(counts) >= max(2, steps - 1)}
        total = sum(every.values())
        if total >= WORTH_SAYING:
            places = sorted(every, key=lambda frame: -every[frame])[:PLACES]
            yield Finding(
                id=name,
                stage="denoise",
                message=f"{total} {words} in every step",
                where=tuple(f"{frame.short}:{frame.line} ({every[frame]})" for frame in places),
                evidence={"per_step": total},
            )


def _changes_precision(flat: Sequence[object], dtype: object) -> bool:
    source = flat[0] if flat else None
    if not isinstance(source, ShadowTensor) or not isinstance(dtype, torch.dtype):
        return False
    return source.dtype.is_floating_point and dtype.is_floating_point and source.dtype != dtype
