"""The same run in the words of each vendor's profiler gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

import halftime
from trace_synthetic import VENDORS, Synthetic, Vendor

MICRO = 1e-6


def run(vendor: Vendor) -> Synthetic:
    """Three steps of five kernels and a copy to the host that is waited for."""
    trace = Synthetic(vendor=vendor)
    for step in range(3):
        with trace.range(f"halftime/denoise/denoiser#{step}"):
            for index in range(5):
                trace.launch(f"gemm_{index}", 100.0)
        with trace.range(f"halftime/denoise/scheduler#{step}"):
            trace.copy_to_host(4)
            trace.work(60.0)
    return trace


@pytest.mark.parametrize("name", VENDORS)
def test_launches_waits_and_copies_of_every_vendor(tmp_path: Path, name: str) -> None:
    trace = run(VENDORS[name])
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert session.device is not None
    assert session.device.busy_seconds == pytest.approx(3 * (5 * 100 + 1) * MICRO, abs=1e-9)
    # Between the steps: 1 us to return from the wait, 60 us of Python, 4 us to launch, all of it
    # hidden time of the wait; then 2 us of latency.
    assert session.device.idle_by_cause == pytest.approx(
        {"host": 0.0, "sync": 2 * 65 * MICRO, "allocator": 0.0, "other": 2 * 2 * MICRO}, abs=1e-9
    )
    [wait] = session.syncs
    assert (wait.name, wait.count) == (VENDORS[name].wait, 3)
    assert wait.wall_seconds == pytest.approx(2 * 65 * MICRO, abs=1e-9)
    [transfer] = session.transfers
    assert (transfer.direction, transfer.count) == ("DtoH", 3)
    assert session.environment.device_name == VENDORS[name].device_name
    [stage] = session.on_device
    assert stage.launch_latency_seconds == pytest.approx(2 * MICRO, abs=1e-9)


def test_the_device_type_is_torchs(tmp_path: Path) -> None:
    types = {
        name: halftime.trace(run(vendor).write(tmp_path / f"{name}.json")).environment.device
        for name, vendor in VENDORS.items()
    }
    assert types == {
        "cuda": "cuda",
        "rocm": "cuda",
        "xpu": "xpu",
        "mtia": "mtia",
        "privateuse1": "privateuse1",
    }


def test_a_device_that_is_not_listed_has_the_name_of_its_like(tmp_path: Path) -> None:
    # ROCm numbers devices as the driver does, and lists those that torch sees.
    trace = Synthetic(vendor=VENDORS["rocm"])
    trace.launch("gemm", 10.0, device=2)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    assert session.environment.device_name == "AMD Instinct MI300X"


def test_events_of_synchronisation_and_of_queues_are_not_work(tmp_path: Path) -> None:
    trace = run(VENDORS["cuda"])
    trace.event("cuda_sync", "Stream Sync", 0.0, 5000.0, stream=7, correlation=3)
    session = halftime.trace(trace.write(tmp_path / "t.json"))
    clean = halftime.trace(run(VENDORS["cuda"]).write(tmp_path / "u.json"))
    assert session.device == clean.device
    mtia = run(VENDORS["mtia"])
    mtia.event("mtia_ccp_events", "event_wait", 0.0, 5000.0, device=0, stream=1)
    assert (
        halftime.trace(mtia.write(tmp_path / "v.json")).device
        == halftime.trace(run(VENDORS["mtia"]).write(tmp_path / "w.json")).device
    )
