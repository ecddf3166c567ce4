"""What a wait, a line of Python and an idle stage cost, against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import halftime
from halftime.cli import _run
from halftime.verbs.trace.run import explain
from trace_synthetic import VENDORS, Synthetic, diffusion, flux_sized, framed

MICRO = 1e-6


def test_a_wait_costs_no_more_than_the_host_waited(tmp_path: Path) -> None:
    # 20 x (1 ms of kernel, a wait of 20 us at its end, 5 ms of Python).
    trace = Synthetic()
    for step in range(20):
        with trace.range(f"halftime/denoise/denoiser#{step}"):
            trace.launch("sm80_gemm", 1000.0)
            trace.work(1000.0 + trace.latency - 19.0)
            trace.synchronize()
        with trace.range(f"halftime/denoise/scheduler#{step}"):
            trace.work(5000.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    [wait] = session.syncs
    assert wait.host_seconds == pytest.approx(20 * 20 * MICRO)
    # The last wait is followed by no operation.
    assert wait.wall_seconds == pytest.approx(19 * 20 * MICRO)
    ids = {finding.id: finding for finding in session.findings}
    assert "host-waits" not in ids  # 0.4 ms of 120 ms is not worth saying
    slow = ids["launch-bound"]
    # After each wait: 1 us to return from it, 5 ms of Python, 4 us to launch; 20 us of it is the
    # wait's.
    assert slow.seconds == pytest.approx(19 * (1 + 5000 + 4 - 20) * MICRO)
    assert slow.ceiling == pytest.approx(
        session.wall_seconds / (session.wall_seconds - slow.seconds)
    )


def test_the_cost_of_a_wait_is_the_gap_where_the_wait_is_longer(tmp_path: Path) -> None:
    session = halftime.trace(diffusion(Synthetic()).write(tmp_path / "t.json"))
    wait = next(wait for wait in session.syncs if wait.name == "cudaStreamSynchronize")
    assert wait.wall_seconds == pytest.approx(5 * 105 * MICRO, abs=1e-9)


def test_the_line_that_costs_is_named_with_its_share(tmp_path: Path) -> None:
    # Before each of four steps the host walks the module tree for 6,000 us.
    trace = framed(Synthetic(), walk=6000.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    line = "diffusers/models/cache_utils.py(154): cache_context"
    gap = next(gap for gap in session.host_gaps if gap.frame == line)
    # The text encoder runs from 6 us to 306 us and its launches return at 12 us, so it hides the
    # first 294 us of the first walk.
    assert gap.seconds == pytest.approx((4 * 6000 - 294) * MICRO, abs=1e-9)
    assert gap.share == pytest.approx(gap.seconds / session.wall_seconds)
    assert gap.ceiling == pytest.approx(session.wall_seconds / (session.wall_seconds - gap.seconds))
    assert gap.where[0].endswith("pipeline_flux.py(652): __call__")
    finding = next(finding for finding in session.findings if finding.id == "host-line")
    assert "cache_context" in finding.message
    assert finding.where[0] == line


def test_idle_time_of_lines_adds_up(tmp_path: Path) -> None:
    reading = explain(framed(Synthetic(), walk=500.0).write(tmp_path / "t.json"))
    assert reading.session.device is not None
    # Everything happens inside __call__, so every moment for the host's sake has a line.
    causes = reading.session.device.idle_by_cause
    assert sum(frame.idle for frame in reading.frames) * 1e-9 == pytest.approx(
        causes["host"] + causes["sync"], abs=1e-9
    )


def test_glue_of_a_call_without_a_device_has_lines(tmp_path: Path) -> None:
    trace = Synthetic()
    for step in range(3):
        with trace.range(f"halftime/denoise/denoiser#{step}"):
            trace.work(100.0)
        with trace.frame("my_app/callbacks.py(12): on_step_end"):
            trace.work(40.0)
        with trace.range(f"halftime/denoise/scheduler#{step}"):
            trace.work(10.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    [gap] = session.host_gaps
    assert gap.frame == "my_app/callbacks.py(12): on_step_end"
    assert gap.seconds == pytest.approx(3 * 40 * MICRO)


def test_a_stage_that_idles_is_not_bound_by_computing(tmp_path: Path) -> None:
    trace = Synthetic(latency=5000.0)  # queued at once, and started late
    with trace.range("halftime/vae_decode/vae"):
        for _ in range(4):
            trace.launch("sm80_gemm", 20.0)
            trace.work(5000.0)
            trace.synchronize()
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    [stage] = session.on_device
    assert stage.idle_seconds > stage.busy_seconds
    assert stage.bound not in ("compute-bound", "memory-bound")


def test_idle_time_of_other_causes_has_a_finding(tmp_path: Path) -> None:
    trace = Synthetic(latency=300.0)
    with trace.range("halftime/denoise/denoiser#0"):
        for _ in range(10):
            trace.launch("sm80_gemm", 200.0)
            trace.work(300.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    finding = next(finding for finding in session.findings if finding.id == "device-idle")
    # Every 304 us a kernel of 200 us starts, each long after its launch has returned.
    assert finding.seconds == pytest.approx(9 * 104 * MICRO, abs=1e-9)


def test_the_wall_clock_holds_all_that_the_device_did(tmp_path: Path) -> None:
    # Nine kernels are launched before the first range: they are of the call too.
    trace = Synthetic()
    for _ in range(9):
        trace.launch("sm80_gemm", 1000.0)
    with trace.range("halftime/vae_decode/vae"):
        trace.launch("conv", 1000.0)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert session.device is not None
    assert session.device.busy_seconds == pytest.approx(10_000 * MICRO)
    # From the first launch: 4 us of the call, 2 us of latency, then no gap.
    assert session.wall_seconds == pytest.approx(10_006 * MICRO)
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)


def test_the_pages_example_is_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(VENDORS["cuda"], device_name="NVIDIA H100 80GB HBM3")
    path = flux_sized(Synthetic(vendor=card)).write(tmp_path / "trace.json.gz")
    monkeypatch.setenv("COLUMNS", "100")
    assert _run(["trace", str(path)], debug=False) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    page = (Path(__file__).parents[3] / "docs" / "trace.md").read_text()
    example = page.partition("<!-- example -->\n```text\n")[2].partition("\n```")[0]
    assert example.splitlines() == printed
    # Before each of 28 steps 7 ms, of which the text encoder hides what it takes beyond its
    # launches: 24 layers of 12 kernels of 60 us, the first layer's of 80 us, and 4 us a launch.
    hidden = 6 + 12 * 80 + 23 * 12 * 60 - 288 * 4
    gap = halftime.trace(path).host_gaps[0]
    assert gap.seconds == pytest.approx((28 * 7000 - min(hidden, 7000)) * MICRO, abs=1e-9)
