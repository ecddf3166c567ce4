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

import torch

from halftime.upstream import pytorch

_METHODS = 64  # more than DeviceGuardImplInterface has
_kept: list[object] = []  # a stand-in may be held by a guard that is alive: it is never freed


@contextmanager
def installed() -> Iterator[None]:
    """Make c10 accept cuda tensors within the block."""
    guards = pytorch.device_guards()
    before, initialised = guards[pytorch.CUDA_GUARD], torch.cuda.is_initialized()
    if not before:
        guards[pytorch.CUDA_GUARD] = _stand_in()
    pytorch.ensure_cuda_guard()
    try:
        yield
    finally:
        guards[pytorch.CUDA_GUARD] = before
        if not initialised:
            pytorch.forget_cuda_initialisation()


def _stand_in() -> int:
    zero = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 0)
    address = ctypes.cast(zero, ctypes.c_void_p).value
    table = (ctypes.c_void_p * _METHODS)(*[address] * _METHODS)
    guard = (ctypes.c_void_p * 1)(ctypes.addressof(table))
    _kept.extend([zero, table, guard])
    return ctypes.addressof(guard)
