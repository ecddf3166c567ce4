"""Which operations make the host wait on a real CUDA device: a table, read off torch's CUDA
sources.

Sources, as excerpts whose version is not known (`lstsq`, `pinv`, `matrix_exp` and `eig` partly from
memory): aten/src/ATen/native/cuda/{Indexing,Nonzero,Unique,SummaryOps,Repeat}.cu,
native/cuda/Copy.cpp (`copy_requires_temporaries`, `non_blocking`),
native/TensorAdvancedIndexing.cpp (masks and CPU indices), native/IndexingUtils.h (`expandTensors`),
native/Distributions.cpp (checks; `multinomial`), native/BatchLinearAlgebra.cpp
(`_linalg_check_errors` reads `infos.any()`), native/TensorCompare.cpp (`isin`: the sorting way
calls `_unique`; 2.13's CUDA library still takes it, a later source does not),
c10/cuda/CUDAFunctions (warn_or_error_on_sync). The same operations warn under
torch.cuda.set_sync_debug_mode: `halftime audit --check-rules` compares on a real GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

TESTED_TORCH = ("2.13",)

# Operation -> kind of wait: its CUDA kernel reads a size, a value or a check back to the host.
READS_BACK: dict[str, str] = {
    "aten::_local_scalar_dense": "item",
    "aten::is_nonzero": "item",
    "aten::allclose": "item",
    "aten::equal": "check",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "nonzero",
    "aten::_unique": "nonzero",
    "aten::_unique2": "nonzero",
    "aten::unique_dim": "nonzero",
    "aten::unique_consecutive": "nonzero",
    "aten::unique_dim_consecutive": "nonzero",
    "aten::bincount": "nonzero",
    "aten::_linalg_check_errors": "check",
    "aten::_linalg_eigh": "check",
    "aten::_linalg_svd": "check",
    "aten::linalg_eig": "check",
    "aten::linalg_lstsq": "check",
    "aten::linalg_pinv": "check",  # through the svd, or eigh
    "aten::linalg_matrix_exp": "nonzero",  # sorts matrices by their norm
    "aten::cholesky": "check",
    "aten::cholesky_inverse": "check",
    "aten::normal.Tensor_Tensor": "check",
    "aten::normal.float_Tensor": "check",
}
# Operations that check `info` on the host only if asked to: position of that argument, called
# check_errors.
CHECKS_IF_ASKED: dict[str, int] = {
    "aten::linalg_inv_ex": 1,
    "aten::linalg_cholesky_ex": 2,
    "aten::linalg_lu_factor_ex": 2,
    "aten::linalg_ldl_factor_ex": 2,
    "aten::_linalg_solve_ex": 3,
}
INDEXING = {
    "aten::index",
    "aten::_unsafe_index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
}
# Operations that take CPU and CUDA tensors side by side.
MIXED = INDEXING | {
    "aten::copy_",
    "aten::_to_copy",
    "aten::copy",
    "aten::set_",
    "aten::_copy_from",
    "aten::lift_fresh",
    "aten::_local_scalar_dense",
}
# A scalar that arrives as a device tensor is read: position of that argument, by operation and
# overload.
SCALAR_READ: dict[tuple[str, str], int] = {
    ("aten::masked_fill", "Tensor"): 2,
    ("aten::masked_fill_", "Tensor"): 2,
    ("aten::index_fill", "int_Tensor"): 3,
    ("aten::index_fill_", "int_Tensor"): 3,
}
COPY_TO_HOST, COPY_TO_DEVICE = "copy-to-host", "copy-to-device"
# Every other kind reads from the device. Copies from pageable memory synchronise the stream too:
# one of 6 microseconds has waited 2.3 s for the queue before it (diffusers 13356).
DIRECTIONS = {COPY_TO_DEVICE: "h2d"}


@dataclass(frozen=True)
class Wait:
    """That an operation would wait, and why."""

    kind: str
    warns: bool = True  # torch.cuda.set_sync_debug_mode('warn') would say so
