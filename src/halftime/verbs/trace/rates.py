"""How fast operators ran against the card's roofline, where shapes were recorded.

FLOPs follow from the shapes that `record_shapes=True` writes; the device's time is that of the
kernels that carry the operator's id. A multiply-add counts two.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from halftime.records import OperationRate
from halftime.records.gpus import Gpu, Rate, find_gpu
from halftime.verbs.trace.read import Names, Shapes, Trace, distinct

MOST = 10
NANO = 1e-9
# What torch calls an element -> bytes, and the card's formats that can compute it, best first.
_ELEMENTS: dict[str, tuple[int, tuple[Rate, ...]]] = {
    "c10::Half": (2, ("fp16",)),
    "c10::BFloat16": (2, ("bf16", "fp32")),
    "float": (4, ("tf32", "fp32")),
    "c10::Float8_e4m3fn": (1, ("fp8", "fp16")),
    "signed char": (1, ("int8", "fp16")),
}


class Work(NamedTuple):
    """What one operator does: FLOPs, and elements read and written."""

    flops: float
    elements: float


def work_of(shapes: Shapes) -> Work | None:
    """FLOPs and elements of one operator; None where its shapes do not say."""
    name = shapes.name.removeprefix("aten::").lstrip("_")
    try:
        if name in ("mm", "bmm"):
            return _product(*shapes.dims[:2])
        if name in ("addmm", "baddbmm"):
            return _product(*shapes.dims[1:3])
        if name == "linear":
            rows, weight = shapes.dims[:2]
            return _product((math.prod(rows[:-1]), rows[-1]), (weight[1], weight[0]))
        if "attention" in name:
            return _attention(name, *shapes.dims[:3])
        if "conv" in name:
            return _convolution(name, shapes)
    except (ValueError, IndexError, TypeError):
        return None
    return None


def _product(first: Sequence[int], second: Sequence[int]) -> Work:
    rows, inner, columns = math.prod(first[:-1]), first[-1], second[-1]
    return Work(
        2.0 * rows * inner * columns,
        float(math.prod(first) + math.prod(second) + rows * columns),
    )


def _attention(name: str, query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> Work:
    # The kernels' own operators have the sequence before the heads, the public one after them.
    length, heads = (2, 1) if "scaled_dot" in name else (1, 2)
    pairs = query[0] * query[heads] * query[length] * key[length]
    elements = 2 * math.prod(query) + math.prod(key) + math.prod(value)
    return Work(2.0 * pairs * (query[3] + value[3]), float(elements))


def _convolution(name: str, shapes: Shapes) -> Work | None:
    """By its stride and padding, which are among the recorded values."""
    source, weight = shapes.dims[:2]
    lists = [_integers(text) for text in shapes.values]
    sizes = [numbers for numbers in lists if len(numbers) == len(weight) - 2]
    if len(sizes) < 2:
        return None
    # The libraries' operators have the padding first, torch's own the stride.
    padding, stride = sizes[:2] if name.startswith(("cudnn", "miopen")) else (sizes[1], sizes[0])
    out = [
        (size + 2 * pad - kernel) // step + 1
        for size, pad, kernel, step in zip(source[2:], padding, weight[2:], stride, strict=True)
    ]
    written = source[0] * weight[0] * math.prod(out)
    flops = 2.0 * written * math.prod(weight[1:])
    return Work(flops, float(math.prod(source) + math.prod(weight) + written))


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)] if text.startswith("[") else []


def operation_rates(trace: Trace, stages: Names) -> tuple[OperationRate, ...]:
    """The operators with most to gain: those whose device time is furthest above their roofline.

    `stages` has one for each device operation. () where no shapes were recorded.
    """
    if not trace.shapes:
        return ()
    gpu = _gpu(trace)
    groups: dict[tuple[Shapes, str], list[int]] = defaultdict(list)
    for at, external in enumerate(trace.device.external.tolist()):
        shapes = trace.shapes.get(external)
        if shapes is not None:
            groups[shapes, stages[at]].append(at)
    rates = [
        rate
        for (shapes, stage), own in groups.items()
        if (rate := _rate(trace, shapes, stage, own, gpu)) is not None
    ]
    return tuple(
        sorted(rates, key=lambda rate: -(rate.seconds - (rate.roofline_seconds or 0.0)))[:MOST]
    )


def _gpu(trace: Trace) -> Gpu | None:
    names = {trace.device_name(number) for number in distinct(trace.device.device)}
    name = next(iter(names)) if len(names) == 1 else None
    return find_gpu(name) if name else None


def _rate(
    trace: Trace, shapes: Shapes, stage: str, own: list[int], gpu: Gpu | None
) -> OperationRate | None:
    work = work_of(shapes)
    seconds = float(trace.device.duration[own].sum()) * NANO
    if work is None or seconds <= 0:
        return None
    count = len(set(trace.device.external[own].tolist()))
    width, formats = _ELEMENTS.get(shapes.dtype, (4, ("fp32",)))
    flops, volume = count * work.flops, count * work.elements * width
    roofline = None
    if gpu is not None:
        peak = next((gpu.peak[name] for name in formats if name in gpu.peak), gpu.peak["fp32"])
        roofline = max(flops / peak, volume / gpu.bandwidth)
    return OperationRate(
        name=shapes.name,
        shapes=" x ".join("x".join(map(str, shape)) for shape in shapes.dims if shape),
        stage=stage,
        count=count,
        seconds=seconds,
        flops=flops,
        bytes=volume,
        flops_per_second=flops / seconds,
        roofline_seconds=roofline,
    )
