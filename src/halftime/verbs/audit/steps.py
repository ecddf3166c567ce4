"""What every denoising step repeats on the host, and what differs between steps.

Both break capture and compilation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps

import torch

from halftime.pipeline.change import patched
from halftime.records import Finding
from halftime.verbs.audit.sites import Frame, Sites, innermost
from halftime.verbs.audit.tensor import ShadowTensor

FACTORIES = {
    "aten::arange",
    "aten::zeros",
    "aten::ones",
    "aten::full",
    "aten::linspace",
    "aten::scalar_tensor",
    "aten::eye",
}
WORTH_SAYING = 4  # in a step
PLACES = 3


@dataclass
class Steps:
    """What each step of the loop did, as far as it matters here."""

    # step -> hash of operations and shapes
    sequences: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    rebuilt: dict[Frame, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    converted: dict[Frame, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    walked: dict[Frame, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @contextmanager
    def walks_counted(self, sites: Sites) -> Iterator[None]:
        """Count walks through all modules of a model in the loop, as `.to()` or `.dtype` make them.

        Every such walk goes through `named_modules`, a generator; a call within a call counts once.
        """
        original = torch.nn.Module.named_modules
        depth = 0

        @wraps(original)
        def named_modules(
            module: torch.nn.Module, *args: object, **kwargs: object
        ) -> Iterator[object]:
            nonlocal depth
            if sites.step is not None and sites.recording and depth == 0:
                self.walked[innermost()][sites.step] += 1
            depth += 1
            try:
                modules = list(original(module, *args, **kwargs))  # type: ignore[arg-type]
            finally:
                depth -= 1
            yield from modules

        with patched(torch.nn.Module, "named_modules", named_modules):
            yield

    def observe(
        self, step: int, name: str, flat: Sequence[object], kwargs: dict[str, object]
    ) -> None:
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
        # The first step fills caches and the last one ends the schedule: what is between them is
        # the rule.
        between = [sequence for step, sequence in sorted(self.sequences.items())][1:-1]
        kinds = len(set(between))
        if kinds > 1:
            yield Finding(
                id="steps-differ",
                stage="denoise",
                message=f"operations or shapes differ between steps: {kinds} kinds among "
                f"{len(between)} steps between the first and the last; each kind is compiled and "
                "captured anew",
            )
        for name, words, frames, least in (
            ("tensors-rebuilt", "tensors are made anew", self.rebuilt, WORTH_SAYING),
            ("dtype-ping-pong", "tensors change their precision", self.converted, WORTH_SAYING),
            (
                "module-walks",
                "walks through all modules of a model are made on the host",
                self.walked,
                1,
            ),
        ):
            yield from self._repeated(name, words, frames, least)

    def _repeated(
        self, name: str, words: str, frames: dict[Frame, Counter[int]], least: int
    ) -> Iterator[Finding]:
        steps = len(self.sequences)
        every = {
            frame: min(counts.values())
            for frame, counts in frames.items()
            if len(counts) >= max(2, steps - 1)
        }
        total = sum(every.values())
        if total >= least:
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
