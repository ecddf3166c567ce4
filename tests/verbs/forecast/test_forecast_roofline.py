"""Fusion, the roofline and the floor: laws that hold whatever the constants are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.errors import BadInput, UnknownDevice
from halftime.records.gpus import all_gpus, find_gpu, gpu_named
from halftime.verbs.forecast.constants import prior, shipped
from halftime.verbs.forecast.floor import floor_seconds
from halftime.verbs.forecast.fusion import fuse
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.ops import Op, OpGroup
from halftime.verbs.forecast.predict import Effects, forward, total_seconds
from halftime.verbs.forecast.presets import PRESETS
from halftime.verbs.forecast.roofline import formats, limits_of, op_seconds, table_of
from halftime.verbs.forecast.scenario import OUTSIDE, ForecastSettings, scenario_of

A100, T4, A10G = gpu_named("A100"), gpu_named("T4"), gpu_named("A10G")


def pointwise(number: int, *sources: int, size: int = 100) -> Op:
    return Op(
        name="add",
        kind="pointwise",
        element=2,
        read=size * len(sources),
        written=size,
        inputs=sources,
        input_bytes=(size,) * len(sources),
        outputs=(number,),
    )


def product(number: int, source: int) -> Op:
    return Op(
        name="mm",
        kind="gemm",
        element=2,
        flops=10,
        read=200,
        written=100,
        m=1,
        n=1,
        k=5,
        inputs=(source,),
        input_bytes=(100,),
        outputs=(number,),
    )


def test_a_chain_of_pointwise_operations_is_one_kernel() -> None:
    (kernel,) = fuse([pointwise(1, 0), pointwise(2, 1), pointwise(3, 2, 0)])
    assert (kernel.kernels, kernel.read, kernel.written) == (1, 100, 100)


def test_a_product_stands_between_two_kernels() -> None:
    kernels = fuse([pointwise(1, 0), product(2, 1), pointwise(3, 2)])
    assert sorted(kernel.kind for kernel in kernels) == ["gemm", "pointwise", "pointwise"]


def test_what_is_read_later_is_written() -> None:
    kernels = fuse([pointwise(1, 0), pointwise(2, 1), product(3, 1), pointwise(4, 3, 2)])
    first = next(kernel for kernel in kernels if kernel.kind == "pointwise")
    assert first.written == 200  # 1 is read by the product, 2 by the last


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_fusion_never_adds_bytes_nor_kernels(steps: list[tuple[int, bool]]) -> None:
    ops = [
        product(i, max(0, i - 1 - back)) if heavy else pointwise(i, max(0, i - 1 - back))
        for i, (back, heavy) in enumerate(steps, 1)
    ]
    fused = fuse(ops)
    assert sum(op.read + op.written for op in fused) <= sum(op.read + op.written for op in ops)
    assert sum(op.kernels for op in fused) <= sum(op.kernels for op in ops)
    assert sum(op.flops for op in fused) == sum(op.flops for op in ops)


def seconds(m: int, n: int, k: int, gpu_name: str = "A100", kind: str = "gemm") -> float:
    group = OpGroup(
        kind=kind,
        count=1,
        kernels=1,
        element=2,
        flops=2 * m * n * k,
        read=2 * (m * k + k * n),
        written=2 * m * n,
        m=m,
        n=n,
        k=k,
        products=1,
    )  # type: ignore[arg-type]
    machine = limits_of(gpu_named(gpu_name), "fp16", prior())
    return float(op_seconds(table_of([group], compiled=False), machine, prior().values).total[0])


@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(32, 8192))
def test_more_work_takes_longer_and_never_beats_the_peak(m: int, n: int, k: int) -> None:
    once = seconds(m, n, k)
    assert once <= seconds(2 * m, n, k)
    assert once >= 2 * m * n * k / A100.peak["fp16"]
    assert once >= 2 * (m * k + k * n + m * n) / (A100.bandwidth * (1 + prior()["cached"]))


def test_large_products_reach_what_was_measured() -> None:
    """Measured matrix products (data/matmul.csv), of which a fit on pictures was told nothing but
    the B200's energy."""
    import csv
    from importlib import resources

    text = resources.files("halftime.verbs.forecast").joinpath("data", "matmul.csv").read_text()
    constants = shipped()
    ratios = []
    for row in csv.DictReader(text.splitlines()):
        measured = float(row["fp16_tflops"] or row["bf16_tflops"]) * 1e12
        group = OpGroup(
            kind="gemm",
            count=1,
            kernels=1,
            element=2,
            flops=2 * 8192**3,
            read=4 * 8192**2,
            written=2 * 8192**2,
            m=8192,
            n=8192,
            k=8192,
            products=1,
        )
        machine = limits_of(gpu_named(row["gpu"]), "fp16", constants)
        took = op_seconds(table_of([group], compiled=False), machine, constants.values).total[0]
        ratios.append(group.flops / took / measured)
    assert min(ratios) > 0.7
    assert max(ratios) < 1.35


@pytest.mark.parametrize("gpu", [gpu.name for gpu in all_gpus()])
def test_no_forecast_is_below_its_floor(gpu: str) -> None:
    for name in ("sd15", "sdxl", "flux-dev", "pixart-sigma"):
        for compiled in (False, True):
            works = scenario_of(resolve(name), ForecastSettings(compiled=compiled)).works
            assert floor_seconds(works, gpu_named(gpu)) < total_seconds(
                works, gpu_named(gpu), shipped()
            )


def test_every_preset_can_be_forecast() -> None:
    for name in PRESETS:
        works = scenario_of(resolve(name), ForecastSettings()).works
        assert [work.stage for work in works] == [
            "encode_prompt",
            "denoise",
            "vae_decode",
            "postprocess",
            OUTSIDE,
        ]
        assert np.isfinite(total_seconds(works, A100, shipped()))


def test_a_slow_host_slows_small_batches_only() -> None:
    small, large = (
        scenario_of(resolve("sd15"), ForecastSettings(batch=batch, guidance=True)).works[1]
        for batch in (1, 1)
    )
    run = small.runs[0]
    slow = Effects(host=1.0)
    assert forward(run, A100, shipped(), slow).seconds > 1.5 * forward(run, A100, shipped()).seconds
    assert forward(run, T4, shipped(), slow).seconds < 1.1 * forward(run, T4, shipped()).seconds
    assert large == small


def test_gpu_names_as_people_write_them() -> None:
    for name, expected in {
        "A100-40": "A100-40GB",
        "A100-80": "A100-80GB",
        "RTX4090": "RTX 4090",
        "T4": "T4",
        "L40S": "L40S",
        "NVIDIA GeForce RTX 4090": "RTX 4090",
        "Tesla V100-SXM2-16GB": "V100-SXM2",
        "A100 80GB PCIe": "A100-PCIe-80GB",
        "h100 pcie": "H100-PCIe",
        "A100-SXM4-40GB": "A100-40GB",
        "H100-80GB-HBM3": "H100-SXM",
        # as the devices of a recording are named
        "NVIDIA H100 80GB HBM3": "H100-SXM",
        "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
        "AMD Instinct MI210": "MI210",
        "AMD Instinct MI250X": "MI250X",
        "AMD Instinct MI250X / MI250": "MI250X",
        "AMD Instinct MI300X": "MI300X",
        "AMD Instinct MI300X VF": "MI300X",
        "AMD Instinct MI355X": "MI355X",
        "Intel(R) Data Center GPU Max 1550": "Max 1550",
        "Intel(R) Arc(TM) B580 Graphics": "Arc B580",
    }.items():
        assert gpu_named(name).name == expected
    assert find_gpu("GPU of my dreams") is None
    with pytest.raises(UnknownDevice, match="Nearest: RTX 4090"):
        gpu_named("RTX 40900")


def test_every_gpu_says_where_its_values_come_from() -> None:
    for gpu in all_gpus():
        assert len(gpu.source) > 20
        assert gpu.peak["fp16"] >= gpu.peak["fp32"] * 0.9
        assert gpu.memory_bytes >= 8 * 2**30
    listed = {gpu.name for gpu in all_gpus()}
    assert {
        "T4",
        "V100-SXM2",
        "A10",
        "A10G",
        "A100-40GB",
        "A100-80GB",
        "L4",
        "L20",
        "L40S",
        "H100-SXM",
        "H100-PCIe",
        "H200",
        "B200",
        "RTX 3090",
        "RTX 4080",
        "RTX 4090",
        "RTX 5090",
    } <= listed


def test_formats_fall_back_where_a_gpu_lacks_them() -> None:
    assert formats(T4, "bf16") == ("fp32", "fp32", "fp32")
    assert formats(A100, "fp32") == ("tf32", "fp32", "tf32")
    assert formats(A10G, "fp8")[1] == "bf16"
    with pytest.raises(BadInput, match="Allowed are"):
        formats(T4, "fp3")
