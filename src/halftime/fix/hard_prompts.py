"""Which calls are too hard for a cache: a score of their first steps, which ran in full.

`step-cache` of kind 'deep' takes it as its setting `hard`: the weights of the features of steps
1 to `full_steps` - 1 in their order, the constant, and the threshold. A call whose score is above
it goes on in full, and nothing is thrown away. `halftime.verbs.tune.hard` learns and certifies it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halftime.fix.base import Settings
from halftime.upstream import pytorch

FEATURES = 2  # of a step: see `StepFeatures`
_SMALLEST = 1e-6
_SEEN: ContextVar[list[Tensor] | None] = ContextVar("seen", default=None)


@contextmanager
def scored_calls() -> Iterator[list[Tensor]]:
    """Within it the features of each call that is scored, pictures by features."""
    rows: list[Tensor] = []
    token = _SEEN.set(rows)
    try:
        yield rows
    finally:
        _SEEN.reset(token)


def same_for_all(full_steps: int, *, hard: bool) -> list[float]:
    """The setting `hard` under which every call is hard, or none is: each is scored all the
    same."""
    return [*[0.0] * (FEATURES * (full_steps - 1)), 0.0, -1.0 if hard else 1.0]


def hard_settings(settings: Settings) -> list[float]:
    """The setting's numbers."""
    values = settings["hard"]
    assert isinstance(values, list)
    return [float(value) for value in values if isinstance(value, int | float)]


def refusal(settings: Settings, *, in_one_batch: bool) -> str | None:
    """Why the setting `hard` cannot be used, or None."""
    values, full_steps = settings["hard"], settings["full_steps"]
    assert isinstance(full_steps, int)
    if values == []:
        return None
    if full_steps < 2:
        return "hard looks at the first full steps; full_steps must be 2 or more for it"
    expected = FEATURES * (full_steps - 1) + 2
    if not isinstance(values, list) or len(values) != expected:
        return (
            f"hard must be a list of {expected} numbers for {full_steps} full steps: {FEATURES} "
            "weights for each step after the first, the constant and the threshold"
        )
    if len(hard_settings(settings)) != expected:
        return "hard must be a list of numbers"
    return (
        None if in_one_batch else "hard needs guidance that is evaluated as two halves of one batch"
    )


@dataclass
class StepFeatures:
    """Of each step and picture: how much guidance changed the model's answer, and how much the
    answer changed since the step before, both relative to its size."""

    before: Tensor | None = None

    def of(self, answer: object) -> Tensor:
        """Shape (FEATURES, pictures), from what the model answered for both halves of the batch.
        The first step of a call has no change."""
        sample = next(leaf for leaf in pytorch.tree_leaves(answer) if isinstance(leaf, Tensor))
        plain, conditional = sample.detach().chunk(2)
        size = _norm(conditional)
        guided = _norm(conditional - plain) / size
        changed = (
            torch.zeros_like(guided)
            if self.before is None
            else _norm(conditional - self.before) / size
        )
        self.before = conditional.clone()
        return torch.stack([guided, changed])


def _norm(values: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(values.float().flatten(1), dim=1)
    return size


@dataclass
class HardScore:
    """Follows the full steps of one call."""

    settings: list[float]
    features: StepFeatures = field(default_factory=StepFeatures)
    steps: list[Tensor] = field(default_factory=list)

    def see(self, answer: object) -> None:
        """One full step's answer."""
        self.steps.append(self.features.of(answer))

    def is_hard(self) -> bool:
        """Whether the call goes on in full, its hardest picture deciding."""
        rows = torch.cat(self.steps[1:]).clamp_min(_SMALLEST).log()  # features, pictures
        calls = _SEEN.get()
        if calls is not None:
            calls.append(rows.T.cpu())
        *weights, constant, threshold = self.settings
        score = torch.tensor(weights, device=rows.device, dtype=rows.dtype) @ rows + constant
        return bool((score > threshold).any())
