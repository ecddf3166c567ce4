"""Copies, collectives, allocator stalls and several devices, against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadInput
from halftime.cli import _run
from halftime.verbs.trace.run import explain_ranks
from trace_synthetic import VENDORS, Synthetic, framed

MICRO = 1e-6


def offloaded(streams: bool, layers: int = 10) -> Synthetic:
    """Weights of 1 MB are copied before each of the layers, on one stream or ahead on another."""
    trace = Synthetic()
    with trace.range("halftime/denoise/denoiser#0"):
        for layer in range(layers):
            stream = 8 if streams else 7
            trace.copy(trace.vendor.to_device, 1_000_000, 90.0, stream=stream)
            if not streams or layer:
                trace.launch("sm80_gemm", 100.0 if streams else 10.0)
        trace.synchronize()
    return trace


def test_copies_that_nothing_hides_bound_a_stage(tmp_path: Path) -> None:
    session = halftime.trace(offloaded(streams=False).write(tmp_path / "t.json"))
    [transfer] = session.transfers
    assert (transfer.direction, transfer.count, transfer.bytes) == ("HtoD", 10, 10_000_000)
    assert transfer.seconds == pytest.approx(10 * 90 * MICRO)
    assert transfer.exposed_seconds == pytest.approx(10 * 90 * MICRO)
    assert [stage.bound for stage in session.on_device] == ["transfer-bound"]
    finding = next(finding for finding in session.findings if finding.id == "transfers")
    assert finding.seconds == pytest.approx(900 * MICRO)
    assert finding.ceiling == pytest.approx(session.wall_seconds / (session.wall_seconds - 900e-6))


def test_copies_behind_kernels_cost_little(tmp_path: Path) -> None:
    session = halftime.trace(offloaded(streams=True).write(tmp_path / "t.json"))
    [transfer] = session.transfers
    assert transfer.seconds == pytest.approx(10 * 90 * MICRO)
    # Copies follow each other from 6 us to 906 us; kernels run from 14 us on without a gap.
    assert transfer.exposed_seconds == pytest.approx(8 * MICRO, abs=1e-9)


def test_memory_from_the_driver_is_not_a_slow_host(tmp_path: Path) -> None:
    for name in ("cuda", "rocm", "xpu", "privateuse1"):
        trace = Synthetic(vendor=VENDORS[name])
        with trace.range("halftime/denoise/denoiser#0"):
            for _ in range(5):
                trace.launch("sm80_gemm", 20.0)
                trace.allocate(500.0)
        session = halftime.trace(trace.write(tmp_path / f"{name}.json"))
        assert session.device is not None
        # After 20 us of kernel (18 us of them beside the allocator), the rest of the 500 us.
        stalled = 4 * (500 - 2 - 20) * MICRO
        assert session.device.idle_by_cause["allocator"] == pytest.approx(stalled, abs=1e-9)
        assert session.device.idle_by_cause["host"] == pytest.approx(4 * 4 * MICRO, abs=1e-9)
        finding = next(finding for finding in session.findings if finding.id == "allocator-stalls")
        assert finding.seconds == pytest.approx(stalled, abs=1e-9)
        assert finding.fix is None


def test_two_devices_in_turns_are_not_one_busy_device(tmp_path: Path) -> None:
    trace = Synthetic()
    with trace.range("halftime/denoise/denoiser#0"):
        for _ in range(6):
            for device in (0, 1):
                trace.launch("sm80_gemm", 1000.0, device=device)
                trace.synchronize()
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert [device.device for device in session.devices] == [0, 1]
    for device in session.devices:
        assert device.busy_seconds == pytest.approx(6 * 1000 * MICRO)
        assert device.alone_seconds == pytest.approx(6 * 1000 * MICRO)
        # Each waits while the other works: six or five times 1 ms, and the gaps of both.
        assert device.idle_seconds == pytest.approx((6 * 1000 + 11 * 7) * MICRO, abs=1e-9)
    finding = next(finding for finding in session.findings if finding.id == "devices-in-turns")
    assert finding.seconds == pytest.approx(6 * 1000 * MICRO)


def test_devices_side_by_side_are_no_finding(tmp_path: Path) -> None:
    trace = Synthetic()
    with trace.range("halftime/denoise/denoiser#0"):
        for _ in range(6):
            for device in (0, 1):
                trace.launch("sm80_gemm", 1000.0, device=device)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert "devices-in-turns" not in {finding.id for finding in session.findings}


def ranked(rank: int, kernel: float) -> Synthetic:
    """One of two ranks; a collective ends when the slower of the two has reached it."""
    trace = Synthetic(rank=rank, world_size=2)
    with trace.range("halftime/denoise/denoiser#0"):
        for _ in range(4):
            trace.launch("sm80_gemm", kernel)
            trace.launch("ncclDevKernel_AllReduce_Sum_bf16", 50.0 + 400.0 - kernel)
    return trace


def test_collectives_and_which_rank_waits(tmp_path: Path) -> None:
    paths = [
        ranked(rank, kernel).write(tmp_path / f"rank{rank}.json")
        for rank, kernel in ((0, 100.0), (1, 400.0))
    ]
    alone = halftime.trace(paths[0])
    [row] = alone.communication
    assert row.count == 4
    assert row.seconds == pytest.approx(4 * 350 * MICRO)
    assert row.exposed_seconds == pytest.approx(4 * 350 * MICRO)
    assert [stage.bound for stage in alone.on_device] == ["communication-bound"]
    together = halftime.trace(paths[0], ranks=paths[1:])
    assert [rank.rank for rank in together.ranks] == [0, 1]
    assert [rank.waited_seconds for rank in together.ranks] == pytest.approx([4 * 300 * MICRO, 0.0])
    finding = next(finding for finding in together.findings if finding.id == "rank-waits")
    assert "rank 0 waits 1.20 ms" in finding.message


def test_a_collective_of_one_rank_alone_does_not_shift_the_others(tmp_path: Path) -> None:
    """Rank 0 gathers once more than the others; what it waits is what it waited before."""
    paths = []
    for rank, kernel in ((0, 100.0), (1, 400.0)):
        trace = Synthetic(rank=rank, world_size=2)
        if rank == 0:
            trace.launch("ncclDevKernel_Broadcast_RING_LL", 7.0)
        trace.events += ranked(rank, kernel).events
        paths.append(trace.write(tmp_path / f"{rank}.json"))
    together = explain_ranks(paths).session
    assert [row.waited_seconds for row in together.ranks] == pytest.approx([4 * 300 * MICRO, 0.0])
    assert any("1 collectives have no counterpart on each rank" in d for d in together.doubts)


def test_files_that_are_not_ranks_of_one_run(tmp_path: Path) -> None:
    paths = [framed(Synthetic()).write(tmp_path / f"{at}.json") for at in range(3)]
    with pytest.raises(BadInput, match="not different ranks of one run"):
        explain_ranks(paths)
    assert _run(["trace", *map(str, paths)], debug=False) == 2


def test_unlike_traces_are_refused_or_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flux = framed(Synthetic()).write(tmp_path / "flux.json")
    renamed = framed(Synthetic())
    for event in renamed.events:
        event["name"] = str(event["name"]).replace("flux/pipeline_flux", "sd3/pipeline_sd3")
    sd3 = renamed.write(tmp_path / "sd3.json")
    assert _run(["trace", str(flux), str(sd3)], debug=False) == 2
    assert "pipelines pipeline_flux and pipeline_sd3 differ" in capsys.readouterr().err
    longer = framed(Synthetic(), steps=6).write(tmp_path / "longer.json")
    assert _run(["trace", str(flux), str(longer)], debug=False) == 2
    assert "numbers of steps 4 and 6 differ" in capsys.readouterr().err
    amd = framed(Synthetic(vendor=VENDORS["rocm"])).write(tmp_path / "amd.json")
    assert _run(["trace", str(flux), str(amd)], debug=False) == 0
    printed = capsys.readouterr().out
    assert "no interval" in printed
    assert "ran on Synthetic and the other on AMD Instinct MI300X" in " ".join(printed.split())


def test_the_flame_graph_holds_all_idle_time(tmp_path: Path) -> None:
    path = framed(Synthetic(), walk=700.0).write(tmp_path / "t.json")
    out = tmp_path / "idle.folded"
    page = tmp_path / "t.html"
    arguments = ["trace", str(path), "--flame", str(out), "--html", str(page), "--quiet"]
    assert _run(arguments, debug=False) == 0
    lines = [line.rpartition(" ") for line in out.read_text().splitlines()]
    session = halftime.trace(path)
    assert session.device is not None
    causes = session.device.idle_by_cause
    assert sum(int(idle) for _, _, idle in lines) * 1e-9 == pytest.approx(
        causes["host"] + causes["sync"], abs=1e-9
    )
    assert lines[0][0].endswith("__call__;diffusers/models/cache_utils.py(154): cache_context")
    assert "Flame graph of the device" in page.read_text()
