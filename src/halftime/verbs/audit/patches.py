"""What else must believe in the device: torch.cuda, generators, streams. All of it is undone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from halftime.pipeline.change import patched
from halftime.upstream import pytorch
from halftime.verbs.audit.sites import Sites
from halftime.verbs.audit.tensor import CUDA, ShadowTensor

pytorch.load_dynamo()  # before any of torch's functions is replaced

ONE_AT_A_TIME = threading.Lock()
MEMORY = 80 << 30  # bytes that the device claims, so that no pipeline offloads for want of memory
CAPABILITY = (8, 9)  # Ada: bf16 and fused attention are taken


def apply(sites: Sites, undo: ExitStack) -> None:
    """Change torch's globals; `undo` puts them back."""
    undo.enter_context(pytorch.lifting_cpu_tensors_only())
    _read_behind_the_dispatcher(sites, undo)
    for name, value in _cuda_functions(sites).items():
        undo.enter_context(patched(torch.cuda, name, value))
    accelerator = {
        "current_accelerator": lambda *_, **__: torch.device("cuda"),
        "is_available": lambda: True,
    }
    for name, function in accelerator.items():
        undo.enter_context(patched(torch.accelerator, name, function))
    undo.enter_context(patched(torch, "Generator", ShadowGenerator))
    # A CUDA build asks the driver which attention kernel suits the GPU, unless one alone may run.
    undo.enter_context(sdpa_kernel(SDPBackend.MATH))


def _read_behind_the_dispatcher(sites: Sites, undo: ExitStack) -> None:
    """torch.tensor([device scalars]) reads with the Python key excluded, and ends at the CUDA
    backend's own kernel.

    A CUDA build has one, which needs a driver; it is put back with the library's end.
    """
    name = "aten::_local_scalar_dense"

    def read(tensor: torch.Tensor) -> object:
        if not isinstance(tensor, ShadowTensor):
            return tensor.cpu().item()
        sites.record("item", name)
        return tensor.on_host.item()

    undo.enter_context(pytorch.kernel_replaced("_local_scalar_dense", read, "CUDA"))


def _cuda_functions(sites: Sites) -> dict[str, object]:
    def recorded(kind: str) -> Callable[..., None]:
        return lambda *_, **__: sites.record(kind, f"torch.cuda.{kind}")

    def nothing(*_: object, **__: object) -> None:
        return None

    def stream(*_: object, **__: object) -> ShadowStream:
        return ShadowStream(sites)

    return {
        pytorch.CUDA_INITIALISATION: nothing,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_name": lambda *_: "shadow",
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": nothing,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "ipc_collect": nothing,
        "empty_cache": nothing,
        "synchronize": recorded("synchronize"),
        "Stream": stream,
        "Event": stream,
        "current_stream": stream,
        "default_stream": stream,
        "stream": lambda _: contextlib.nullcontext(),
    }


class ShadowStream:
    """Stands for a stream or an event: everything is done already, and a wait of the host is
    recorded."""

    device = CUDA

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __enter__(self) -> ShadowStream:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def synchronize(self) -> None:
        self._sites.record("synchronize", "torch.cuda.Stream.synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: ShadowStream) -> float:
        return 0.0

    def record(self, *_: object) -> None:
        return None

    wait = wait_event = wait_stream = record_event = record


_Generator = torch.Generator  # torch.Generator itself is replaced while an audit runs


class _GeneratorMeta(type(_Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Generator)


class ShadowGenerator(_Generator, metaclass=_GeneratorMeta):
    """A CPU generator that says it belongs to the device that was named."""

    _says: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> ShadowGenerator:
        generator: ShadowGenerator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        generator._says = CUDA if torch.device(device).type == "cuda" else torch.device(device)
        return generator

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._says
