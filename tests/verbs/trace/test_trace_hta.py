"""Idle time and kernel totals agree with HolisticTraceAnalysis, the reference for such traces, to 1
%."""

from __future__ import annotations

from pathlib import Path

import pytest

import halftime
from trace_synthetic import Synthetic, diffusion

hta = pytest.importorskip(
    "hta.trace_analysis", reason="HolisticTraceAnalysis is installed by make test"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [{"steps": 12}, {"steps": 6, "kernel": 5.0}, {"steps": 4, "sync_every_step": False}]
)
def test_agrees_with_holistic_trace_analysis(tmp_path: Path, run: dict[str, float]) -> None:
    path = diffusion(Synthetic(overhead=6.0), **run).write(tmp_path / "rank0.json")
    analysis = hta.TraceAnalysis(trace_files={0: str(path)}, trace_dir=str(tmp_path))
    theirs = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    session = halftime.trace(path)
    assert session.device is not None
    assert session.device.idle_seconds == pytest.approx(theirs["idle_time(us)"] * 1e-6, rel=0.01)
    busy = theirs["compute_time(us)"] + theirs["non_compute_time(us)"]
    assert session.device.busy_seconds == pytest.approx(busy * 1e-6, rel=0.01)

    _, totals = analysis.get_gpu_kernel_breakdown(
        visualize=False, num_kernels=1000, duration_ratio=1.0
    )
    seconds = {
        name: group["sum (us)"].sum() * 1e-6
        for name, group in totals[totals["name"] != "others"].groupby("name")
    }
    ours: dict[str, float] = {}
    for stage in session.on_device:
        for kernel in stage.top_kernels:
            ours[kernel.name] = ours.get(kernel.name, 0.0) + kernel.seconds
    shared = [
        name
        for name in ours
        if name in seconds and name.startswith(("cudnn_conv_vae", "sm80_gemm_text"))
    ]
    assert shared
    for name in shared:
        assert ours[name] == pytest.approx(seconds[name], rel=0.01)
