"""`--memory`: the most that a call may take on its device, measured for every plan that is tried.

Counted are tensors, as torch's allocator counts them on an accelerator and by what torch makes on a
CPU: all that came up from putting a plan on until it has drawn its first pictures, and the
pipeline's own weights where they are on the device.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.fix.guard import COMPILERS, RUNTIMES
from halftime.fix.offload import bytes_of
from halftime.pipeline.components import modules_of
from halftime.upstream import pytorch
from halftime.verbs.tune.decide import Choices

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_WITH_PEAK = ("cuda", "xpu")  # whose allocators know the highest that they reached


def memory_of(words: str | None) -> int | None:
    """'12GB' in bytes; None where nothing is said. Raises BadInput."""
    if words is None:
        return None
    limit = bytes_of(words)
    if not limit:
        raise BadInput(
            f"memory is {words!r}; it must be an amount above 0, for example 12GB or 800MiB."
        )
    return limit


# ---- what is measured


class MemoryMeter(Protocol):
    """How much more than before a device held at most, in bytes."""

    def peak(self, work: Callable[[], object]) -> int: ...


@dataclass(frozen=True)
class AllocatorMeter:
    """An accelerator's, by torch's allocator."""

    device: torch.device

    def peak(self, work: Callable[[], object]) -> int:
        """The most above what was allocated before."""
        allocator = getattr(torch, self.device.type)
        before = int(allocator.memory_allocated(self.device))
        allocator.reset_peak_memory_stats(self.device)
        work()
        return int(allocator.max_memory_allocated(self.device)) - before


class TensorMeter:
    """A CPU's, by the tensors that torch makes; scratch space inside of kernels is not seen."""

    def peak(self, work: Callable[[], object]) -> int:
        """The most that new tensors took together."""
        tensors = _NewTensors()
        with tensors:
            work()
        return tensors.peak


class _NewTensors(pytorch.TorchDispatchMode):
    """Counts the storages that operations make within the block, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self,
        operation: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = operation(*args, **(kwargs or {}))
        storages = {pytorch.storage_key(storage): storage for storage in _storages(result)}
        if storages:  # a view of weights is not new
            for storage in _storages((args, kwargs)):
                storages.pop(pytorch.storage_key(storage), None)
        for key, storage in storages.items():
            self._count(key, storage)
        return result

    def _count(self, key: int, storage: torch.UntypedStorage) -> None:
        if key in self._alive:
            return
        self._alive.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storages(value: object) -> Iterator[torch.UntypedStorage]:
    for leaf in pytorch.tree_leaves(value):
        if type(leaf) in (Tensor, torch.nn.Parameter) and leaf.device.type == "cpu":
            yield leaf.untyped_storage()


def weight_bytes(pipeline: DiffusionPipeline, device_type: str) -> int:
    """What its weights take on devices of one type; shared ones once."""
    tensors = (
        tensor
        for module in modules_of(pipeline).values()
        for tensor in (*module.parameters(), *module.buffers())
    )
    sizes = {id(tensor): tensor.nbytes for tensor in tensors if tensor.device.type == device_type}
    return sum(sizes.values())


# ---- the limit


@dataclass
class MemoryLimit:
    """`limit` bytes of `device`, and how they are measured there."""

    limit: int
    device: torch.device
    meter: MemoryMeter

    def peak_of(self, pipeline: DiffusionPipeline, work: Callable[[], object]) -> int:
        """What a plan over `pipeline` takes that `work` puts on and draws with."""
        return weight_bytes(pipeline, self.device.type) + self.meter.peak(work)

    def unmeasurable(self, plan: Choices) -> str:
        """Why a plan cannot be judged; '' where it can."""
        hidden = [fix.name for fix in plan if fix.name in RUNTIMES | COMPILERS]
        if self.device.type != "cpu" or not hidden:
            return ""
        return (
            f"on a CPU what {hidden[0]} takes is not seen by torch, so with --memory it cannot be "
            "judged"
        )

    def too_large(self, peak: int | None) -> str:
        """Why a plan of this peak is not kept; '' where it fits."""
        if peak is None or peak <= self.limit:
            return ""
        return f"takes {units.size(peak)}, and --memory allows {units.size(self.limit)}"


def limit_on(device: torch.device, limit: int) -> MemoryLimit:
    """Raises BadInput where nothing says what a call takes."""
    if device.type == "cpu":
        return MemoryLimit(limit, device, TensorMeter())
    if device.type in _WITH_PEAK:
        return MemoryLimit(limit, device, AllocatorMeter(device))
    raise BadInput(
        f"--memory: the allocator of {device} does not say what a call takes at most. Leave "
        "--memory out; `halftime plan --card 12GB` forecasts what fits."
    )
