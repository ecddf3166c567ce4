"""What a denoiser's evaluation is given: its batch, and the conditioning by which two evaluations
of one step are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from halftime.upstream import pytorch

# Parameters of a denoiser that say what to draw, by which two evaluations of one step differ.
_CONDITIONING = ("encoder_hidden_states", "cap_feats", "context", "class_labels")
MOST_CONDITIONINGS = 8  # of one call; where each step makes new ones, none is met again


@dataclass
class Conditionings:
    """The conditionings of a call by number: evaluations of one number continue each other.

    A pipeline that evaluates the unconditional and the conditional input one after the other would
    else answer the second from what the first left, and their difference would be 0.
    """

    tensors: list[Tensor | None] = field(default_factory=list)  # held, so that no address is reused

    def number(self, conditioning: Tensor | None) -> int | None:
        """Its number, or None where it was not met before."""
        return next(
            (index for index, tensor in enumerate(self.tensors) if _is_same(tensor, conditioning)),
            None,
        )


def _is_same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether both are the same values in memory: compared by address, so nothing is read."""
    if left is None or right is None:
        return left is right
    return left is right or (
        left.device == right.device
        and left.data_ptr() == right.data_ptr()
        and (left.shape, left.stride(), left.dtype) == (right.shape, right.stride(), right.dtype)
    )


def conditions(parameters: Iterable[str]) -> bool:
    """Whether a denoiser with these parameters is told what to draw."""
    return any(name.startswith(_CONDITIONING) for name in parameters)


def conditioning_of(arguments: Mapping[str, object]) -> Tensor | None:
    """What a denoiser's call with these arguments, by name, is conditioned on."""
    names = [name for name in arguments if name.startswith(_CONDITIONING)]
    for name in sorted(names, key=lambda name: name not in _CONDITIONING):  # masks are last
        leaves = pytorch.tree_leaves(arguments[name])
        tensor = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
        if tensor is not None:
            return tensor
    return None


def sample_of(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tensor | None:
    """What a denoiser's call denoises: its first argument, `sample` or `hidden_states`."""
    first = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    return first if isinstance(first, Tensor) else None


def batch_of(args: tuple[object, ...], kwargs: Mapping[str, object]) -> int:
    """The batch of a denoiser's call."""
    sample = sample_of(args, kwargs)
    return 1 if sample is None else int(sample.shape[0])
