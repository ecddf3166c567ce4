"""A CUDA device guard where there is no CUDA, for as long as an audit runs.

c10 refuses tensors that say they are on cuda:0 unless a guard is registered for CUDA, and the one
of a CUDA build raises without a driver. Within the block a stand-in is registered, each of whose
virtual methods returns 1. As a Device (type in the low byte, index in the next) that is cuda:0, as
a number of devices it is one, as a query it is yes; what returns nothing does nothing. (torch has a
function for this, `_ensureCUDADeviceGuardSet`, made for its own fake tensors; torch 2.8 lacks it,
and in a CPU build it crashes.) On leaving, the registry holds what it held, and torch's C++ code
will ask Python again whether CUDA can be initialised, as it would have before.

Sources: c10/core/impl/DeviceGuardImplInterface.h (`device_guard_impl_registry`, the methods),
torch/csrc/utils/device_lazy_init.cpp (`set_requires_device_init`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from halftime.upstream import pytorch

_METHODS = 64  # more than DeviceGuardImplInterface has
_kept: list[object] = []  # a guard that is alive may hold the stand-in: it is never freed


@contextmanager
def installed() -> Iterator[None]:
    """Make c10 accept cuda tensors within the block. Raises UnsupportedVersion."""
    guards = pytorch.device_guards()
    before, initialised = guards[pytorch.CUDA_GUARD], torch.cuda.is_initialized()
    if not torch.cuda.device_count():
        guards[pytorch.CUDA_GUARD] = _stand_in()
    try:
        yield
    finally:
        guards[pytorch.CUDA_GUARD] = before
        if not initialised:
            pytorch.forget_cuda_initialisation()


@cache
def _stand_in() -> int:
    method = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 1)
    address = ctypes.cast(method, ctypes.c_void_p).value
    table = (ctypes.c_void_p * _METHODS)(*[address] * _METHODS)
    guard = (ctypes.c_void_p * 1)(ctypes.addressof(table))
    _kept.extend([method, table, guard])
    return ctypes.addressof(guard)
