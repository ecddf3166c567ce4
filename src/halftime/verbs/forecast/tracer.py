"""Trace a forward on the meta device: every operation with its FLOPs and bytes.

Neither weights nor a GPU are needed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch.overrides import TorchFunctionMode

from halftime.upstream import pytorch
from halftime.verbs.forecast.fusion import fuse
from halftime.verbs.forecast.ops import Kind, Op, StageTrace, grouped, product

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

Attention = Literal["sdpa", "math"]

# Operations that move no data.
_VIEWS = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "expand",
        "unsqueeze",
        "squeeze",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "as_strided",
        "detach",
        "alias",
        "_reshape_alias",
        "unflatten",
        "diagonal",
        "lift_fresh",
        "movedim",
        "narrow",
        "view_as_real",
        "view_as_complex",
        "empty",
        "empty_strided",
        "empty_like",
        "new_empty",
        "new_empty_strided",
    }
)
# name -> kind and CUDA kernels, for what is not a contraction; anything else is one pointwise
# kernel.
_SIMPLE: dict[str, tuple[Kind, int]] = {
    "native_layer_norm": ("norm", 1),
    "native_group_norm": ("norm", 3),  # moments, per-channel scale and shift, apply
    "_softmax": ("norm", 1),
    "_fused_rms_norm": ("norm", 1),
    **dict.fromkeys(
        ["clone", "_to_copy", "copy_", "contiguous", "cat", "stack", "constant_pad_nd"], ("copy", 1)
    ),
    **dict.fromkeys(
        [
            "mean",
            "sum",
            "argmax",
            "amax",
            "any",
            "all",
            "var",
            "max",
            "min",
            "cumsum",
            "linalg_vector_norm",
        ],
        ("reduce", 1),
    ),
    **dict.fromkeys(["embedding", "index_select", "gather", "index"], ("gather", 1)),
}
# Read nothing but a scalar.
_FILLS = frozenset(
    {
        "arange",
        "full",
        "zeros",
        "ones",
        "scalar_tensor",
        "fill_",
        "zero_",
        "rand",
        "randn",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
    }
)


def trace(
    module: nn.Module, forward: Callable[[nn.Module], object], *, attention: Attention = "sdpa"
) -> tuple[StageTrace, list[Op]]:
    """Run `forward(module)` on meta tensors and return its trace, and the operations one by one.

    `attention` 'math' writes attention out as two products and a softmax, as diffusers'
    AttnProcessor does.
    """
    recorder = OperationRecorder()
    for tensor in (*module.parameters(), *module.buffers()):
        recorder.number(tensor, weight=True)
    with torch.no_grad(), _modules_counted(module, recorder), recorder, _Fused(recorder, attention):
        forward(module)
    return StageTrace(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        peak_activation_bytes=recorder.peak_bytes,
        dispatched=len(recorder.ops),
        views=recorder.views,
        modules=recorder.modules,
        eager=grouped(recorder.ops),
        compiled=grouped(fuse(recorder.ops)),
    ), recorder.ops


@contextmanager
def _modules_counted(module: nn.Module, recorder: OperationRecorder) -> Iterator[None]:
    def called(_: nn.Module, __: object) -> None:
        recorder.modules += 1

    hooks = [child.register_forward_pre_hook(called) for child in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class OperationRecorder(pytorch.TorchDispatchMode):
    """Records every dispatched operation, and tracks the bytes of live storages by number."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.views = 0
        self.modules = 0
        self.live_bytes = 0
        self.peak_bytes = 0
        self._numbers: dict[int, int] = {}
        self._next = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        results = [leaf for leaf in pytorch.tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if name in _VIEWS:
            self.views += 1
            for tensor in results:
                self.number(tensor)
        elif results:
            tensors = [
                leaf
                for leaf in pytorch.tree_leaves((args, kwargs))
                if isinstance(leaf, torch.Tensor)
            ]
            self.ops.append(self._op(name, args, tensors, results[0]))
        return out

    def number(self, tensor: Tensor, *, weight: bool = False) -> int:
        """A number for the tensor's storage, unique even where its memory is used again."""
        storage = tensor.untyped_storage()
        key = pytorch.storage_key(storage)
        if key not in self._numbers:
            size = 0 if weight else storage.nbytes()
            self._numbers[key] = self._next
            self._next += 1
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._freed, key, size)
        return self._numbers[key]

    def _freed(self, key: int, size: int) -> None:
        self._numbers.pop(key, None)
        self.live_bytes -= size

    def _op(self, name: str, args: Sequence[object], tensors: list[Tensor], out: Tensor) -> Op:
        sizes = tuple(_touched_bytes(tensor) for tensor in tensors)
        op = Op(
            name=name,
            kind="pointwise",
            element=out.element_size(),
            read=sum(sizes),
            written=out.numel() * out.element_size(),
            inputs=tuple(map(self.number, tensors)),
            input_bytes=sizes,
            outputs=(self.number(out),),
        )
        if name in _CONTRACTIONS:
            _CONTRACTIONS[name](op, args, out)
        elif name.startswith("upsample"):
            op.kind = "copy"
        else:
            op.kind, op.kernels = _SIMPLE.get(name, ("pointwise", 1))
        if op.kind == "gather":
            op.read = op.written
        elif name == "copy_":
            op.read = sizes[-1]
        elif name in _FILLS:
            op.read = 0
        return op

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Record one fused attention, (B, H, S, D) each.

        The output has the layout that kernels give.
        """
        batch, (queries, width) = product(query.shape[:-2]), query.shape[-2:]
        shape = (*query.shape[:-1], value.shape[-1])
        out = torch.empty(shape, dtype=query.dtype, device=query.device)
        if query.dim() == 4:
            # (B, S, H, D) in memory, so that the reshape after it is free, as with flash attention.
            b, h, s, d = shape
            out = torch.empty((b, s, h, d), dtype=query.dtype, device=query.device).transpose(1, 2)
        tensors = [query, key, value] + ([mask] if mask is not None else [])
        sizes = tuple(_touched_bytes(tensor) for tensor in tensors)
        self.ops.append(
            Op(
                name="scaled_dot_product_attention",
                kind="attention",
                element=query.element_size(),
                flops=2 * batch * queries * key.shape[-2] * (width + value.shape[-1]),
                read=sum(sizes),
                written=out.numel() * out.element_size(),
                m=queries,
                n=key.shape[-2],
                k=width,
                products=batch,
                inputs=tuple(map(self.number, tensors)),
                input_bytes=sizes,
                outputs=(self.number(out),),
            )
        )
        return out


def _touched_bytes(tensor: Tensor) -> int:
    """Bytes of distinct elements; an expanded dimension (stride 0) is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return product(sizes) * tensor.element_size()


def _matmul(op: Op, args: Sequence[object], out: Tensor) -> None:
    first, second = args[-2:] if op.name in ("mm", "bmm") else args[1:3]
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    op.products = first.shape[0] if first.dim() == 3 else 1
    op.m, op.k, op.n = first.shape[-2], first.shape[-1], second.shape[-1]
    op.flops = 2 * op.products * op.m * op.n * op.k
    op.kind = "gemm" if op.products == 1 else "bmm"


def _convolution(op: Op, args: Sequence[object], out: Tensor) -> None:
    weight, transposed = args[1], bool(args[6])
    source = args[0]
    assert isinstance(weight, torch.Tensor)
    assert isinstance(source, torch.Tensor)
    # A transposed convolution does its multiplications once an input position, a plain one once an
    # output position.
    over = source if transposed else out
    op.m = over.shape[0] * product(over.shape[2:])
    op.n = weight.shape[0]
    op.k = product(weight.shape[1:])
    op.flops = 2 * op.m * op.n * op.k
    op.kind = "conv" if product(weight.shape[2:]) > 1 else "gemm"


_CONTRACTIONS: dict[str, Callable[[Op, Sequence[object], Tensor], None]] = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _matmul),
    "convolution": _convolution,
}


class _Fused(TorchFunctionMode):
    """Keeps whole what CUDA runs as one kernel and the meta device would decompose."""

    def __init__(self, recorder: OperationRecorder, attention: Attention) -> None:
        super().__init__()
        self._recorder, self._attention = recorder, attention

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._sdpa(*args, **kwargs)
        if name == "rms_norm":
            return self._rms_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _sdpa(  # type: ignore[no-untyped-def]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *_: object,
        **__: object,
    ):
        if self._attention == "sdpa":
            return self._recorder.attention(query, key, value, attn_mask)
        batch = product(query.shape[:-2])
        scores = torch.bmm(
            query.reshape(batch, *query.shape[-2:]),
            key.reshape(batch, *key.shape[-2:]).transpose(1, 2),
        )
        weights = torch.softmax(scores, -1)
        out = torch.bmm(weights, value.reshape(batch, *value.shape[-2:]))
        return out.reshape(*query.shape[:-1], value.shape[-1])

    def _rms_norm(
        self, source: Tensor, shape: object, weight: Tensor | None = None, eps: object = None
    ) -> Tensor:
        out = torch.empty_like(source)
        tensors = [source] + ([weight] if weight is not None else [])
        sizes = tuple(_touched_bytes(tensor) for tensor in tensors)
        number = self._recorder.number
        self._recorder.ops.append(
            Op(
                name="rms_norm",
                kind="norm",
                element=out.element_size(),
                read=sum(sizes),
                written=out.numel() * out.element_size(),
                inputs=tuple(map(number, tensors)),
                input_bytes=sizes,
                outputs=(number(out),),
            )
        )
        return out
