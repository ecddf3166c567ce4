"""Stand-ins that behave as CUDA does where no GPU is at hand: a graph that knows addresses and
keeps nothing alive, and a device that works through its streams after the host."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
                results = list(tree_iter(func(*positional, **named)))
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


class PlayedStream:
    """Work in order, begun when the host has queued it and the stream is free."""

    def __init__(self, device: PlayedDevice, priority: int = 0) -> None:
        self.played, self.priority, self.done = device, priority, 0.0

    def queue(self, seconds: float, overhead: float = 0.001) -> None:
        self.played.host += overhead
        self.done = max(self.done, self.played.host) + seconds

    def wait_event(self, event: PlayedEvent) -> None:
        self.done = max(self.done, event.at)

    def wait_stream(self, stream: PlayedStream) -> None:
        self.done = max(self.done, stream.done)

    def synchronize(self) -> None:
        self.played.host = max(self.played.host, self.done)


class PlayedEvent:
    def __init__(self, device: PlayedDevice) -> None:
        self.played, self.at = device, 0.0

    def record(self, stream: PlayedStream) -> None:
        self.at = max(stream.done, self.played.host)

    def synchronize(self) -> None:
        self.played.host = max(self.played.host, self.at)

    def elapsed_time(self, event: PlayedEvent) -> float:
        return (event.at - self.at) * 1e3


class PlayedDevice:
    """torch.cuda where the host's time and each stream's are played: the host runs ahead, and an
    event happens when its stream gets there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = 100.0
        self.current = self.default = PlayedStream(self)
        for name in ("Stream", "Event", "current_stream", "stream", "set_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr("time.perf_counter", lambda: self.host)
        self.streams = [self.default]

    def Stream(self, device: object, priority: int = 0) -> PlayedStream:
        self.streams.append(PlayedStream(self, priority))
        return self.streams[-1]

    def Event(self, *, blocking: bool = False, enable_timing: bool = False) -> PlayedEvent:
        return PlayedEvent(self)

    def current_stream(self, device: object) -> PlayedStream:
        return self.current

    @contextmanager
    def stream(self, stream: PlayedStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def set_stream(self, stream: PlayedStream) -> None:
        self.current = stream

    def synchronize(self, device: object) -> None:
        self.host = max([self.host, *(stream.done for stream in self.streams)])
