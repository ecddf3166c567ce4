"""Stand-ins that behave as CUDA does where no GPU is at hand: a graph that knows addresses and
keeps nothing alive, and a device that works through its streams after the host."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map


class FreedMemory(AssertionError):
    """A replay read what was freed since the capture. CUDA would have read it without a word."""


class RecordedGraph(TorchDispatchMode):
    """A captured graph: every operation with the addresses that it reads and writes.

    What was made while it recorded lies in its own pool and lives as long as it; of everything
    else it knows the address alone. Numbers on the host are read once, at the capture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool: dict[int, Tensor] = {}
        self.operations: list[tuple[Callable[..., object], object, object, list[Tensor]]] = []
        self.replays, self.was_reset = 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = {_address(leaf) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = [leaf for leaf in tree_iter(result) if isinstance(leaf, Tensor)]
        new = [output for output in outputs if _address(output) not in read]
        self.pool.update({_address(output): output for output in new})
        if new or func._schema.is_mutable:  # a view computes nothing
            addresses = tree_map(self._by_address, (args, kwargs))
            self.operations.append((func, *addresses, new))
        return result

    def _by_address(self, leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if _address(leaf) in self.pool:
            return leaf.detach()  # in the graph's own pool
        return Outside(leaf)

    def replay(self) -> None:
        assert not self.was_reset, "replayed after its pool was given back"
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, outputs in self.operations:
                positional, named = tree_map(_read, (args, kwargs))
                results = [leaf for leaf in tree_iter(func(*positional, **named))]
                for output, result in zip(outputs, results, strict=False):
                    output.copy_(result)

    def reset(self) -> None:
        self.was_reset = True
        self.pool.clear()


class Outside:
    """Memory that is not the graph's: the allocator may have handed it out again."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage = weakref.ref(tensor.untyped_storage())
        self.view = tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype

    def read(self) -> Tensor:
        storage = self.storage()
        if storage is None:
            raise FreedMemory(f"{self.view}")
        size, stride, offset, dtype = self.view
        return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


def _read(leaf: object) -> object:
    return leaf.read() if isinstance(leaf, Outside) else leaf


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Captures:
    """torch.cuda as `capture` uses it; `graphs` are those that were recorded, `modes` how."""

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []
        self.calls: list[tuple[str, object]] = []

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("device", "stream", "Stream", "current_stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def device(self, device: torch.device) -> AbstractContextManager[None]:
        self.calls.append(("device", device))
        return nullcontext()

    def stream(self, stream: object) -> AbstractContextManager[None]:
        return nullcontext()

    def Stream(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda stream: None, device=device)

    def current_stream(self, device: torch.device) -> SimpleNamespace:
        return self.Stream(device)

    def CUDAGraph(self) -> RecordedGraph:
        self.graphs.append(RecordedGraph())
        return self.graphs[-1]

    def graph(
        self, graph: RecordedGraph, *, stream: SimpleNamespace, capture_error_mode: str
    ) -> RecordedGraph:
        self.calls += [("stream", stream.device), ("mode", capture_error_mode)]
        return graph
