"""Loops, steps and calls, with and without frames, and what is not named without evidence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import halftime
from halftime.report.trace import per_call, report_of
from trace_synthetic import VENDORS, Synthetic, framed

MICRO = 1e-6


def replayed(vendor: str = "cuda", steps: int = 6, annotation: str = "") -> Synthetic:
    """A text encoder of 23 layers, then a denoiser whose graph's branches run in any order."""
    trace = Synthetic(vendor=VENDORS[vendor])
    order = random.Random(0)
    with trace.range(annotation or "ProfilerStep#3"):
        for _ in range(23):
            for index in range(9):
                trace.launch(f"t5_{index}", 20.0)
        for _ in range(steps):
            kernels = [(f"flux_{index % 40}", 50.0) for index in range(200)]
            order.shuffle(kernels)
            trace.replay(kernels)
            trace.launch("elementwise_step", 5.0)
        for index in range(4):
            trace.launch(f"conv_vae_{index}", 400.0)
    return trace


@pytest.mark.parametrize("vendor", ["cuda", "rocm", "xpu"])
def test_graph_replays_are_the_steps(tmp_path: Path, vendor: str) -> None:
    session = halftime.trace(
        replayed(vendor, annotation="execute_diffusion_1_256x256").write(tmp_path / "t.json")
    )
    row = session.row("denoise")
    assert row is not None
    assert row.per_step is not None
    assert row.per_step.count == 6
    # A step: 200 kernels of 50 us in one graph, and the scheduler's kernel.
    assert row.per_step.median_seconds == pytest.approx(200 * 50 * MICRO, rel=0.01)
    assert row.share > 0.85
    denoise = next(stage for stage in session.on_device if stage.stage == "denoise")
    assert denoise.kernels_per_step == 201
    assert denoise.graph_replays == 6  # by what they launched: the first call was before its step


def test_parallel_branches_may_change_their_order(tmp_path: Path) -> None:
    # Without a graph: each step runs the same 30 kernels in another order, one of them once more.
    trace = Synthetic()
    order = random.Random(1)
    for step in range(5):
        kernels = [f"k{index}" for index in range(30)]
        order.shuffle(kernels)
        trace.launch("embed_time", 10.0)
        for name in [*kernels, *(["k3"] if step == 2 else [])]:
            trace.launch(name, 40.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    row = session.row("steps (a guess)")
    assert row is not None
    assert row.per_step is not None
    assert row.per_step.count == 5


@pytest.mark.parametrize(
    "names",
    [
        ["aten::conv2d", "ResNet"],
        ["vllm/decode"],
        ["Optimizer.step#AdamW.step", "autograd::engine"],
    ],
)
def test_what_is_no_diffusion_pipeline_gets_no_stages(tmp_path: Path, names: list[str]) -> None:
    trace = Synthetic()
    with trace.range(names[0], "cpu_op"), trace.range(names[-1]):
        for _ in range(12):
            for index in range(8):
                trace.launch(f"layer_{index}", 5.0)
                trace.work(30.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert session.row("denoise") is None
    assert not any(finding.fix for finding in session.findings)
    assert any("a guess" in doubt for doubt in session.doubts)


@pytest.mark.parametrize(
    "module",
    ["UNet2DConditionModel_0", "xFuserFlux1Transformer2DWrapper_0", "OptimizedModule_1", "MyNet_0"],
)
def test_the_denoiser_is_what_runs_between_steps(tmp_path: Path, module: str) -> None:
    trace = framed(Synthetic(), steps=4, module=module)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    row = session.row("denoise")
    assert row is not None
    assert row.per_step is not None
    assert row.per_step.count == 4
    # Ten kernels of 100 us a step, and the stall before the first of them.
    parts = {part.stage: part.seconds for part in row.parts}
    assert parts["denoiser"] == pytest.approx(4 * 1000 * MICRO, rel=0.03)
    unexplained = session.row("unexplained")
    assert unexplained is not None
    assert unexplained.share < 0.02


def test_a_compiled_text_encoder_is_not_the_denoiser(tmp_path: Path) -> None:
    trace = Synthetic()
    with trace.frame("pipelines/flux/pipeline_flux.py(652): __call__"):
        with (
            trace.frame("pipelines/flux/pipeline_flux.py(311): encode_prompt"),
            trace.frame("nn.Module: OptimizedModule_0"),
        ):
            trace.launch("gemm_text", 500.0)
        for _ in range(3):
            with trace.frame("nn.Module: OptimizedModule_1"):
                trace.launch("gemm", 300.0)
            with trace.frame("schedulers/scheduling_flow.py(425): step"):
                trace.launch("step", 5.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    rows = {row.stage: row.seconds for row in session.ledger}
    assert rows["encode_prompt"] == pytest.approx(500 * MICRO, rel=0.05)
    assert rows["denoise"] == pytest.approx(3 * 305 * MICRO, rel=0.05)


def test_two_calls_in_one_recording_are_two_calls(tmp_path: Path) -> None:
    single = framed(Synthetic(), walk=300.0)
    double = framed(framed(Synthetic(), walk=300.0), walk=300.0)
    first = halftime.trace(single.write(tmp_path / "a.json"))
    both = halftime.trace(double.write(tmp_path / "b.json"))
    assert len(first.runs) == 1
    assert len(both.runs) == 2
    assert both.wall_seconds == pytest.approx(first.wall_seconds, rel=0.01)
    denoise, alone = both.row("denoise"), first.row("denoise")
    assert denoise is not None
    assert alone is not None
    assert denoise.seconds == pytest.approx(alone.seconds, rel=0.01)
    assert denoise.per_step is not None
    assert denoise.per_step.count == 4
    assert any("2 calls" in note and "one call" in note for note in both.notes)
    costs = {finding.id: finding.seconds for finding in first.findings}
    for finding in both.findings:
        if finding.id in costs:
            assert finding.seconds == pytest.approx(costs[finding.id], rel=0.2)


def test_the_report_of_two_calls_is_of_one_call(tmp_path: Path) -> None:
    single = halftime.trace(framed(Synthetic(), walk=300.0).write(tmp_path / "a.json"))
    double = framed(framed(Synthetic(), walk=300.0), walk=300.0).write(tmp_path / "b.json")
    both = per_call(halftime.trace(double))
    assert single.device is not None
    assert both.device is not None
    assert both.device.busy_seconds == pytest.approx(single.device.busy_seconds, rel=0.01)
    assert both.device.kernels == single.device.kernels
    stages = {row.stage: row for row in single.on_device}
    for row in both.on_device:
        if row.stage in stages:
            alone = stages[row.stage]
            assert row.busy_seconds == pytest.approx(alone.busy_seconds, rel=0.01)
            assert row.kernels == alone.kernels
            assert row.kernels_per_step == pytest.approx(alone.kernels_per_step)
    assert per_call(single) is single
    titles = [section.title for section in report_of(both).sections]
    assert "On the device, a call of the 2" in titles


def test_two_calls_with_our_ranges_are_two_calls(tmp_path: Path) -> None:
    trace = Synthetic()
    for _ in range(2):
        with trace.range("halftime/encode_prompt"):
            trace.launch("text", 50.0)
        for step in range(3):
            with trace.range(f"halftime/denoise/denoiser#{step}"):
                trace.launch("gemm", 200.0)
            with trace.range(f"halftime/denoise/scheduler#{step}"):
                trace.launch("step", 5.0)
        with trace.range("halftime/vae_decode/vae"):
            trace.launch("conv", 100.0)
            trace.synchronize()
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert len(session.runs) == 2
    row = session.row("denoise")
    assert row is not None
    assert row.per_step is not None
    assert row.per_step.count == 3
