"""A tensor that says it is on cuda:0 and holds a real tensor on the CPU.

Since its values are real, control flow is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import torch

from halftime.upstream import pytorch
from halftime.verbs.audit.sites import Sites, innermost

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


class OperationRunner(Protocol):
    """What a shadow tensor asks of the device that it is on."""

    sites: Sites

    def run(
        self, func: pytorch.Operation, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object: ...


class ShadowTensor(torch.Tensor):
    """`on_host` is the CPU tensor with the values; operations run on the active ShadowDevice."""

    on_host: torch.Tensor
    # the active ShadowDevice, set and cleared by itself
    device_mode: ClassVar[OperationRunner | None] = None

    @staticmethod
    def __new__(cls, value: torch.Tensor, **kwargs: object) -> ShadowTensor:
        # accelerate calls type(parameter)(value, requires_grad=...): hence the keywords, which an
        # audit does not need
        inner = value.on_host if isinstance(value, ShadowTensor) else value
        return pytorch.wrapper_tensor(cls, inner, CUDA)

    def __init__(self, value: torch.Tensor, **kwargs: object) -> None:
        self.on_host = value.on_host if isinstance(value, ShadowTensor) else value

    __torch_function__ = pytorch.no_torch_function  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: pytorch.Operation,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        # Reached only where modes are switched off, as in repr.
        if cls.device_mode is None:
            raise RuntimeError(
                f"{func}: a tensor of the shadow device is used after the audit has ended"
            )
        return cls.device_mode.run(func, args, kwargs or {})

    # Methods that torch refuses to subclasses, or that read values behind the dispatcher.
    def tolist(self) -> object:  # type: ignore[override]
        return self.cpu().tolist() if self.dim() else self.item()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Of the tensor inside, so that two views of one tensor share it, as on a device."""
        return self.on_host.untyped_storage()

    def numpy(self, *, force: bool = False) -> object:  # type: ignore[override]
        if force:
            return self.detach().cpu().numpy()
        frame = innermost()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            f"tensor to host memory first. ({frame.short}:{frame.line}; on a CUDA device this call "
            "fails in the same way.)"
        )

    def __array__(self, *args: object, **kwargs: object) -> object:
        return self.numpy()

    def __format__(self, spec: str) -> str:
        return self.item().__format__(spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, *args: object, **kwargs: object) -> str:  # type: ignore[override]
        if self.device_mode is not None:
            self.device_mode.sites.record("item", "repr")
        return f"shadow({self.on_host!r}, device='cuda:0')"

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[..., object], tuple[object, ...]]:
        raise RuntimeError("tensors of the shadow device cannot be pickled")


def unwrapped(value: object) -> object:
    """The CPU tensor inside, or the value itself."""
    return value.on_host if isinstance(value, ShadowTensor) else value
