"""What a traced forward consists of: operations, and groups of equal ones for the forecast."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from halftime.records import Record

# gemm: one matrix product; bmm: a batch of them (attention written out); conv; attention: a fused
# attention kernel; norm, pointwise, copy, reduce, gather: bound by memory.
Kind = Literal["gemm", "bmm", "conv", "attention", "norm", "pointwise", "copy", "reduce", "gather"]
CONTRACTIONS: frozenset[Kind] = frozenset({"gemm", "bmm", "conv", "attention"})


@dataclass(slots=True)
class Op:
    """One operation of a trace; `inputs` and `outputs` are the numbers of the storages it uses."""

    name: str
    kind: Kind
    element: int  # bytes of one element of the output
    flops: int = 0
    read: int = 0  # bytes
    written: int = 0  # bytes
    m: int = 0  # rows of the product; query length for attention
    n: int = 0  # columns; key length for attention
    k: int = 0  # contracted length; head dimension for attention
    products: int = 1  # in a batch; heads x rows for attention
    kernels: int = 1
    inputs: tuple[int, ...] = ()
    input_bytes: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


class OpGroup(Record, frozen=True, kw_only=True, array_like=True):
    """`count` operations that cost the same; bytes and FLOPs are those of one."""

    kind: Kind
    count: int
    kernels: int
    element: int
    flops: int
    read: int
    written: int
    m: int
    n: int
    k: int
    products: int


class StageTrace(Record, frozen=True, kw_only=True):
    """One forward of one component, ready for the roofline.

    `compiled` is the same forward after kernel fusion.
    """

    parameters: int
    peak_activation_bytes: int  # above the weights, inputs included
    dispatched: int  # operations the host dispatches that launch something
    views: int  # operations the host dispatches that launch nothing
    modules: int  # Python modules called
    eager: tuple[OpGroup, ...]
    compiled: tuple[OpGroup, ...]

    @property
    def flops(self) -> int:
        """FLOPs of one forward; a multiply-add counts two."""
        return sum(group.flops * group.count for group in self.eager)


def grouped(ops: Iterable[Op]) -> tuple[OpGroup, ...]:
    """Equal operations together, largest first."""
    counts = Counter(
        (
            op.kind,
            op.kernels,
            op.element,
            op.flops,
            op.read,
            op.written,
            op.m,
            op.n,
            op.k,
            op.products,
        )
        for op in ops
    )
    groups = [
        OpGroup(
            kind=kind,
            count=count,
            kernels=kernels,
            element=element,
            flops=flops,
            read=read,
            written=written,
            m=m,
            n=n,
            k=k,
            products=products,
        )
        for (
            kind,
            kernels,
            element,
            flops,
            read,
            written,
            m,
            n,
            k,
            products,
        ), count in counts.items()
    ]
    return tuple(
        sorted(
            groups, key=lambda group: -(group.count * max(group.flops, group.read + group.written))
        )
    )


def product(shape: Iterable[int]) -> int:
    """The number of elements."""
    return math.prod(shape)
