"""A CUDA device guard where there is no CUDA: without one, c10 refuses tensors that say they are on cuda:0.

torch has such a guard for its own fake tensors, `_ensureCUDADeviceGuardSet`, but it only swaps an existing CUDA guard
that counts no devices. A CPU build has none, so a stand-in, all of whose virtual methods return 0, is registered for
the moment of the swap. On a CUDA build the plain call suffices (not tried here: this machine has a CPU build).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

# c10::impl::device_guard_impl_registry, an array of pointers by DeviceType; CUDA is 1. Mangled, Itanium ABI.
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_CUDA = 1
_METHODS = 64  # more than DeviceGuardImplInterface has
_kept: list[object] = []  # the stand-in must outlive the process's guards


def install() -> None:
    """Make c10 accept cuda tensors. Idempotent; the guard does nothing, and stays, as it does after torch's own use."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 2).in_dll(library, _REGISTRY)
    if not registry[_CUDA]:
        zero = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 0)
        address = ctypes.cast(zero, ctypes.c_void_p).value
        table = (ctypes.c_void_p * _METHODS)(*[address] * _METHODS)
        stand_in = (ctypes.c_void_p * 1)(ctypes.addressof(table))
        _kept.extend([zero, table, stand_in])
        registry[_CUDA] = ctypes.addressof(stand_in)
    torch._C._ensureCUDADeviceGuardSet()
