"""A CUDA device guard where there is no CUDA, for as long as an audit runs.

c10 refuses tensors that say they are on cuda:0 unless a guard is registered for CUDA. torch has one
for its own fake tensors, `_ensureCUDADeviceGuardSet`, but it only swaps an existing CUDA guard that
counts no devices. A CPU build has none, so a stand-in, all of whose virtual methods return 0, is
registered for the moment of the swap. On a CUDA build without a GPU the plain call suffices (tried
with 2.13.0+cu130). On leaving, the registry holds what it held, and torch's C++ code will ask
Python again whether CUDA can be initialised, as it would have before.

Sources: c10/core/impl/DeviceGuardImplInterface.h (`device_guard_impl_registry`,
`ensureCUDADeviceGuardSet`), torch/csrc/utils/device_lazy_init.cpp (`set_requires_device_init`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Mangled, Itanium ABI: c10::impl::device_guard_impl_registry, an array of pointers by DeviceType,
# and torch::utils::set_requires_device_init(c10::DeviceType, bool). CUDA is device type 1.
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_REQUIRES_INIT = "_ZN5torch5utils24set_requires_device_initEN3c1010DeviceTypeEb"
_CUDA = 1
_METHODS = 64  # more than DeviceGuardImplInterface has
_kept: list[object] = []  # a stand-in may be held by a guard that is alive: it is never freed


@contextmanager
def installed() -> Iterator[None]:
    """Make c10 accept cuda tensors within the block."""
    registry = (ctypes.c_void_p * 2).in_dll(_library("libc10.so"), _REGISTRY)
    before, initialised = registry[_CUDA], torch.cuda.is_initialized()
    if not before:
        registry[_CUDA] = _stand_in()
    torch._C._ensureCUDADeviceGuardSet()
    try:
        yield
    finally:
        registry[_CUDA] = before
        if not initialised:
            _forget_initialisation()


def _stand_in() -> int:
    zero = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 0)
    address = ctypes.cast(zero, ctypes.c_void_p).value
    table = (ctypes.c_void_p * _METHODS)(*[address] * _METHODS)
    made = (ctypes.c_void_p * 1)(ctypes.addressof(table))
    _kept.extend([zero, table, made])
    return ctypes.addressof(made)


def _forget_initialisation() -> None:
    """torch remembers that its first cuda tensor initialised CUDA; the audit's was no such
    thing."""
    requires = getattr(_library("libtorch_python.so"), _REQUIRES_INIT)
    requires.argtypes, requires.restype = [ctypes.c_int8, ctypes.c_bool], None
    requires(_CUDA, True)


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
