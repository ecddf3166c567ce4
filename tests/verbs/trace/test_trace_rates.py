"""FLOPs, bytes and rates of operators whose shapes were recorded, against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import halftime
from halftime.verbs.trace.rates import work_of
from halftime.verbs.trace.read import Shapes
from trace_synthetic import VENDORS, Synthetic

MICRO = 1e-6


def shapes(name: str, *dims: tuple[int, ...], values: tuple[str, ...] = ()) -> Shapes:
    return Shapes(f"aten::{name}", dims, "c10::Half", values)


@pytest.mark.parametrize(
    ("operator", "flops", "elements"),
    [
        (shapes("mm", (64, 32), (32, 16)), 2 * 64 * 32 * 16, 64 * 32 + 32 * 16 + 64 * 16),
        (
            shapes("addmm", (16,), (64, 32), (32, 16)),
            2 * 64 * 32 * 16,
            64 * 32 + 32 * 16 + 64 * 16,
        ),
        (shapes("bmm", (4, 8, 2), (4, 2, 8)), 2 * 4 * 8 * 2 * 8, 4 * 16 + 4 * 16 + 4 * 64),
        (
            shapes("linear", (2, 77, 32), (16, 32)),
            2 * 2 * 77 * 32 * 16,
            2 * 77 * 32 + 16 * 32 + 2 * 77 * 16,
        ),
        (
            shapes("_scaled_dot_product_flash_attention", *[(2, 10, 64, 32)] * 3),
            2 * 2 * 10 * 64 * 64 * (32 + 32),
            4 * 2 * 10 * 64 * 32,
        ),
        (
            shapes("_flash_attention_forward", *[(2, 64, 10, 32)] * 3),
            2 * 2 * 10 * 64 * 64 * (32 + 32),
            4 * 2 * 10 * 64 * 32,
        ),
        (
            # stride 2, padding 1: 16 x 16 becomes 8 x 8
            shapes(
                "convolution",
                (1, 4, 16, 16),
                (8, 4, 3, 3),
                values=("", "", "", "[2, 2]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"),
            ),
            2 * 8 * 8 * 8 * 4 * 9,
            4 * 16 * 16 + 8 * 4 * 9 + 8 * 8 * 8,
        ),
    ],
)
def test_work_of_an_operator(operator: Shapes, flops: int, elements: int) -> None:
    work = work_of(operator)
    assert work is not None
    assert (work.flops, work.elements) == (flops, elements)


# The peak of fp16 with fp32 accumulation, and the bandwidth.
@pytest.mark.parametrize(
    ("vendor", "card", "peak", "bandwidth"),
    [
        ("cuda", "NVIDIA A10G", 70e12, 600e9),
        ("rocm", "AMD Instinct MI300X", 1307.4e12, 5300e9),
        ("rocm", "AMD Instinct MI250X / MI250", 191.5e12, 1638e9),  # one of its two dies
        ("xpu", "Intel(R) Arc(TM) B580 Graphics", 116.5e12, 456e9),
    ],
)
def test_operators_stand_against_the_cards_roofline(
    tmp_path: Path, vendor: str, card: str, peak: float, bandwidth: float
) -> None:
    trace = Synthetic(vendor=replace(VENDORS[vendor], device_name=card))
    sizes = {"slow": ([512, 512], 90.0), "fast": ([4096, 4096], 2500.0)}
    with trace.range("halftime/denoise/denoiser#0"):
        for at, (dims, duration) in enumerate(sizes.values(), 1):
            arguments = {
                "External id": at,
                "Input Dims": [dims, dims],
                "Input type": ["c10::Half", "c10::Half"],
            }
            with trace.range("aten::mm", "cpu_op", **arguments):
                trace.launch("gemm", duration, **{"External id": at})
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    rates = {rate.shapes: rate for rate in session.operations}
    large, small = rates["4096x4096 x 4096x4096"], rates["512x512 x 512x512"]
    assert large.flops == 2 * 4096**3
    assert large.bytes == 3 * 4096**2 * 2
    assert large.flops_per_second == pytest.approx(2 * 4096**3 / 2500e-6)
    assert large.roofline_seconds == pytest.approx(2 * 4096**3 / peak)
    assert small.roofline_seconds == pytest.approx(
        max(2 * 512**3 / peak, 3 * 512**2 * 2 / bandwidth)
    )
    # Furthest from the roofline first: 2500 us less 1963 us, then 90 us less 4 us, on the A10G.
    assert [rate.shapes for rate in session.operations] == [large.shapes, small.shapes]


def test_without_shapes_there_are_no_rates(tmp_path: Path) -> None:
    trace = Synthetic()
    trace.launch("gemm", 10.0)
    assert halftime.trace(trace.write(tmp_path / "t.json")).operations == ()
