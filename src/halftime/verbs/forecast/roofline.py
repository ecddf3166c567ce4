"""Seconds of every operation on a GPU: the largest of compute, power and memory.

Every kernel takes at least a fixed time. One set of formulas, on arrays: a forecast evaluates them
for one GPU, a fit for all measurements at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import BadInput
from halftime.records.gpus import Gpu, Rate
from halftime.verbs.forecast.constants import UNMEASURED, Constants
from halftime.verbs.forecast.host import CONSUMER
from halftime.verbs.forecast.ops import Kind, OpGroup
from halftime.verbs.forecast.quantised import (
    activations_are,
    converts_at_once,
    is_quantised,
    weight_bytes,
)

Array = NDArray[np.float64]
KINDS: tuple[Kind, ...] = (
    "conv",
    "gemm",
    "bmm",
    "attention",
    "norm",
    "pointwise",
    "copy",
    "reduce",
    "gather",
)
_CONV, _GEMM, _BMM, _ATTENTION, _NORM = range(5)
TILE = 128
# fp32 lanes of a multiprocessor, by generation; 128 otherwise.
FP32_LANES = {"volta": 64, "turing": 64, "ampere-datacentre": 64}
# How sharply the slower of two limits wins: 1 adds them, infinity takes the maximum.
SHARPNESS = 4.0
# Above this head dimension no fused attention kernel exists: scores are written out.
WIDEST_FUSED_HEAD = 256
SCORE_PASSES = 4  # reads and writes of the score matrix where it is written out

DTYPES: dict[str, str] = {
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "fp32",
    "float32": "fp32",
    "tf32": "tf32",
    "int8": "int8",
    "fp8": "fp8",
    "fp4": "fp4",
    "nvfp4": "fp4",
    "nf4": "nf4",
    "int8-weights": "int8-weights",
    "fp8-weights": "fp8-weights",
}
# dtype -> format of convolutions, of matrix products, of attention; the first that the GPU has.
_FORMATS: dict[str, tuple[tuple[Rate, ...], tuple[Rate, ...], tuple[Rate, ...]]] = {
    "fp16": (("fp16",), ("fp16",), ("fp16",)),
    "bf16": (("bf16", "fp32"), ("bf16", "fp32"), ("bf16", "fp32")),
    # torch's default: TF32 in convolutions; memory-efficient attention emulates fp32 by three TF32
    # products
    "fp32": (("tf32", "fp32"), ("fp32",), ("tf32", "fp32")),
    "tf32": (("tf32", "fp32"), ("tf32", "fp32"), ("tf32", "fp32")),
    "int8": (("bf16", "fp16"), ("int8", "fp16"), ("bf16", "fp16")),
    "fp8": (("bf16", "fp16"), ("fp8", "bf16", "fp16"), ("bf16", "fp16")),
    "fp4": (("bf16", "fp16"), ("fp4", "fp8", "bf16"), ("bf16", "fp16")),
    "nf4": (("bf16", "fp16"), ("bf16", "fp16"), ("bf16", "fp16")),
    "int8-weights": (("bf16", "fp16"), ("bf16", "fp16"), ("bf16", "fp16")),
    "fp8-weights": (("bf16", "fp16"), ("bf16", "fp16"), ("bf16", "fp16")),
}


@dataclass(frozen=True)
class OpTable:
    """Operation groups as columns; `seconds` of each is for one of `count`."""

    kind: NDArray[np.int64]
    count: Array
    kernels: Array
    element: Array
    flops: Array
    bytes: Array
    m: Array
    n: Array
    k: Array
    products: Array
    compiled: Array  # 1 where the compiler made the memory-bound kernels
    low: Array  # 1 where a product is in 8 bits or fewer
    quantised: Array  # elements of activations that are quantised on the way
    dequantised: Array  # weights that are turned back into 16 bits on the way
    converted_at_once: Array  # 1 where one kernel converts, not one for each operation
    transposed: Array  # 1 where eager fp16 convolutions change the layout around them


@dataclass(frozen=True)
class GpuLimits:
    """What the formulas need of a GPU at a dtype: numbers, or one per row of an OpTable."""

    conv: Array
    gemm: Array
    attention: Array  # peak FLOP/s of the format in use
    simt_conv: Array
    simt_gemm: Array
    simt_attention: Array  # 1 where no tensor core is used
    fp32: Array
    bandwidth: Array
    l2: Array
    sms: Array
    cycles: Array  # of all multiprocessors together, a second, at the boost clock
    watts: Array
    energy: Array  # factor of the generation
    legacy: Array  # 1 before Ampere
    # 1 for consumer cards, which clock above their datasheet while power and heat allow
    boosted: Array
    compute: Array  # this GPU's own factors on rates
    memory: Array


def table_of(
    groups: Iterable[OpGroup], *, compiled: bool, channels_last: bool = False, dtype: str = ""
) -> OpTable:
    """Columns of the groups; compiled or channels_last modules need no transposed convolutions.

    Of a quantised dtype the matrix products read lighter weights, and convert on the way.
    """
    rows = list(groups)

    def column(name: str) -> Array:
        return np.array([getattr(row, name) for row in rows], dtype=float)

    kind = np.array([KINDS.index(row.kind) for row in rows], dtype=np.int64)
    linear = ((kind == _GEMM) & (column("element") <= 2) & is_quantised(dtype)).astype(float)
    weights = linear * column("n") * column("k") * column("products")
    moved = column("read") + column("written")
    if is_quantised(dtype):
        moved = np.maximum(moved - weights * (2 - weight_bytes(dtype)), 0.0)
    dynamic = float(activations_are(dtype))
    return OpTable(
        kind=kind,
        count=column("count"),
        kernels=column("kernels"),
        element=column("element"),
        flops=column("flops"),
        bytes=moved,
        low=linear * dynamic,
        quantised=linear * dynamic * column("m") * column("k") * column("products"),
        dequantised=weights * (1 - dynamic),
        converted_at_once=np.full(len(rows), float(compiled or converts_at_once(dtype))),
        m=column("m"),
        n=column("n"),
        k=column("k"),
        products=column("products"),
        compiled=np.full(len(rows), float(compiled)),
        transposed=np.full(len(rows), float(not (compiled or channels_last))),
    )


def formats(gpu: Gpu, dtype: str) -> tuple[Rate, Rate, Rate]:
    """The number formats of convolutions, matrix products and attention.

    Raises BadInput for an unknown dtype.
    """
    if dtype not in _FORMATS:
        raise BadInput(
            f"dtype {dtype!r} is not known to the forecast. Allowed are: {', '.join(_FORMATS)}."
        )
    conv, gemm, attention = _FORMATS[dtype]
    return _first(conv, gpu), _first(gemm, gpu), _first(attention, gpu)


def _first(preferred: tuple[Rate, ...], gpu: Gpu) -> Rate:
    return next((name for name in preferred if name in gpu.peak), "fp32")


def limits_of(gpu: Gpu, dtype: str, constants: Constants) -> GpuLimits:
    """The GPU as the formulas see it."""
    used = formats(gpu, dtype)
    effect = constants.gpus.get(gpu.name)
    legacy = gpu.architecture in ("volta", "turing", "pascal")

    def number(value: float) -> Array:
        return np.array(value)

    conv, gemm, attention = (number(gpu.peak[name]) for name in used)
    simt = [number(float(name == "fp32" or gpu.architecture == "pascal")) for name in used]
    return GpuLimits(
        conv=conv,
        gemm=gemm,
        attention=attention,
        simt_conv=simt[0],
        simt_gemm=simt[1],
        simt_attention=simt[2],
        fp32=number(gpu.peak["fp32"]),
        bandwidth=number(gpu.bandwidth),
        l2=number(gpu.l2_bytes),
        sms=number(float(gpu.sms)),
        cycles=number(gpu.peak["fp32"] / (2 * FP32_LANES.get(gpu.architecture, 128))),
        watts=number(gpu.watts),
        energy=number(
            constants.energy.get(gpu.architecture, UNMEASURED.get(gpu.architecture, 1.0))
        ),
        legacy=number(float(legacy)),
        boosted=number(float(gpu.name.startswith(CONSUMER))),
        compute=number(np.exp(effect.compute) if effect else 1.0),
        memory=number(np.exp(effect.memory) if effect else 1.0),
    )


@dataclass(frozen=True)
class OpSeconds:
    """Seconds of one operation of each group, by what could bound it."""

    compute: Array
    memory: Array
    layout: Array  # moving data between layouts around it, on top
    launch: Array  # what its kernels take at least, on top

    @property
    def total(self) -> Array:
        """The kernel takes the slower of compute and memory; the rest comes on top."""
        return softmax(self.compute, self.memory) + self.layout + self.launch


def op_seconds(ops: OpTable, limits: GpuLimits, c: Constants | Mapping[str, float]) -> OpSeconds:
    """Seconds of one operation of each group."""
    scores = np.where(ops.kind == _ATTENTION, ops.m * ops.n * ops.products, 0.0)
    memory = _memory(ops, limits, scores, c)
    # cuDNN's fp16 kernels want channels last: an eager convolution in torch's default layout is
    # transposed both ways.
    transposed = (ops.kind == _CONV) & (ops.transposed > 0) & _halved(ops)
    return OpSeconds(
        compute=_compute(ops, limits, scores, c),
        memory=memory,
        layout=np.where(transposed, c["layout"] * memory, 0.0) + _converting(ops, limits, c),
        launch=ops.kernels * c["kernel"],
    )


def _converting(ops: OpTable, limits: GpuLimits, c: Constants | Mapping[str, float]) -> Array:
    """Seconds of quantising activations or turning weights back, in kernels of their own."""
    moved = c["quantise"] * ops.quantised + c["dequantise"] * ops.dequantised
    passes = np.where(ops.converted_at_once > 0, 1.0, c["unfused"])
    return moved * passes / (limits.bandwidth * c["pointwise"] * limits.memory)


def _compute(
    ops: OpTable, limits: GpuLimits, scores: Array, c: Constants | Mapping[str, float]
) -> Array:
    contraction = ops.kind <= _ATTENTION
    peak, simt = _rates(ops.kind, limits)
    tiles = np.ceil(ops.m / TILE) * np.ceil(ops.n / TILE) * ops.products
    filled = np.where(contraction, tiles / (tiles + c["tiles"] * limits.sms), 1.0)
    work = ops.flops * _padding(ops) / filled
    clock = np.where(limits.boosted > 0, c["boost"], 1.0)
    busy = work / (peak * _efficiency(ops, limits, simt, c)) + work / (
        _feed(ops.kind, c) * limits.cycles
    )
    at_peak = busy / clock
    joules = (
        c["energy"]
        * limits.energy
        * np.where(simt > 0, c["energy_simt"], np.where(_halved(ops), 1.0, 2.0))
        * np.where(ops.low > 0, c["energy_low"], 1.0)
    )
    at_power = ops.flops * joules / (limits.watts - c["static"])
    busy = softmax(at_peak, at_power) + scores * c["score_operations"] / (limits.fp32 * clock)
    return np.where(contraction, busy / limits.compute, 0.0)


def softmax(first: Array, second: Array) -> Array:
    """The larger of two times, a little more where they are close."""
    out: Array = (first**SHARPNESS + second**SHARPNESS) ** (1 / SHARPNESS)
    return out


def _halved(ops: OpTable) -> NDArray[np.bool_]:
    return ops.element <= 2


def _rates(kind: NDArray[np.int64], limits: GpuLimits) -> tuple[Array, Array]:
    peak = np.select(
        [kind == _CONV, kind == _ATTENTION], [limits.conv, limits.attention], limits.gemm
    )
    simt = np.select(
        [kind == _CONV, kind == _ATTENTION],
        [limits.simt_conv, limits.simt_attention],
        limits.simt_gemm,
    )
    return peak, simt


def _efficiency(
    ops: OpTable, limits: GpuLimits, simt: Array, c: Constants | Mapping[str, float]
) -> Array:
    attention = c["attention"] * np.where(limits.legacy > 0, c["attention_before_ampere"], 1.0)
    tensor = np.select(
        [ops.kind == _CONV, ops.kind == _GEMM, ops.kind == _BMM, ops.kind == _ATTENTION],
        [
            np.where(_halved(ops), c["conv"], c["conv_tf32"]),
            c["gemm"] * np.where(ops.low > 0, c["gemm_low"], 1.0),
            c["bmm"],
            np.where(_halved(ops), attention, c["attention_tf32"]),
        ],
        1.0,
    )
    plain = np.select(
        [ops.kind == _ATTENTION, ops.kind == _CONV],
        [c["attention_fp32"], c["conv_simt"]],
        c["simt"],
    )
    return np.where(simt > 0, plain, tensor)


def _feed(kind: NDArray[np.int64], c: Constants | Mapping[str, float]) -> Array:
    """FLOPs a cycle for which a multiprocessor can load the operands, whatever its tensor cores."""
    return np.select(
        [kind == _CONV, kind == _ATTENTION],
        [np.array(c["feed_conv"]), np.array(c["feed_attention"])],
        c["feed_gemm"],
    )


def _padding(ops: OpTable) -> Array:
    """Factor of work wasted since tensor cores work on whole tiles: narrow products, odd heads."""
    fused = (ops.kind == _ATTENTION) & (ops.k <= WIDEST_FUSED_HEAD)
    heads = np.where(fused, np.ceil(ops.k / 32) * 32 / np.maximum(ops.k, 1), 1.0)
    product = (ops.kind <= _BMM) & (ops.m > 0)
    columns = np.where(product, np.ceil(ops.n / 32) * 32 / np.maximum(ops.n, 1), 1.0)
    depth = np.where(product, np.ceil(ops.k / 32) * 32 / np.maximum(ops.k, 1), 1.0)
    return heads * columns * depth


def _memory(
    ops: OpTable, limits: GpuLimits, scores: Array, c: Constants | Mapping[str, float]
) -> Array:
    share = np.where(
        ops.kind <= _ATTENTION,
        c["pointwise"],
        np.where(
            ops.compiled > 0, c["fused"], np.where(ops.kind == _NORM, c["norm"], c["pointwise"])
        ),
    )
    written_out = (ops.kind == _ATTENTION) & (ops.k > WIDEST_FUSED_HEAD)
    moved = ops.bytes + np.where(written_out, SCORE_PASSES * scores * ops.element, 0.0)
    near = 1 + c["cached"] * np.exp(-moved / limits.l2)
    return moved / (limits.bandwidth * share * near * limits.memory)
