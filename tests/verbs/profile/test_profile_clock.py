"""The CUDA clock, on a device that is played back: events happen when the queue gets to them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from halftime.verbs.profile.clock import CudaClock, HostClock, WaitingClock, clock_for, remarks_on


class PlayedDevice:
    """A stream: the host queues work, which starts when the device is free and the host has sent
    it."""

    def __init__(self) -> None:
        self.host, self.device = 100.0, 0.0

    def launch(self, seconds: float, overhead: float = 0.001) -> None:
        self.host += overhead
        self.device = max(self.device, self.host) + seconds

    def cuda(self) -> SimpleNamespace:
        played = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                self.at = max(played.device, played.host)

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) * 1e3

        def synchronize(device: object) -> None:
            played.host = max(played.host, played.device)

        return SimpleNamespace(
            Event=Event, synchronize=synchronize, current_stream=lambda device: None
        )


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> tuple[PlayedDevice, CudaClock]:
    device = PlayedDevice()
    clock = CudaClock(torch.device("cuda", 0))
    monkeypatch.setattr(clock, "_cuda", device.cuda())
    monkeypatch.setattr("time.perf_counter", lambda: device.host)
    return device, clock


def test_time_is_when_the_device_gets_there_not_when_the_host_has_queued(played) -> None:
    device, clock = played
    origin = clock.start()
    device.launch(2.0)
    after_unet = clock.mark()
    device.launch(1.0)
    end = clock.finish()
    unet, wall = clock.seconds(origin, [after_unet, end])
    assert unet == pytest.approx(2.001)
    assert wall == pytest.approx(3.001)
    assert end.host - origin.host == pytest.approx(wall)
    # what a timer that does not wait would have said
    assert after_unet.host - origin.host == pytest.approx(0.001)


def test_a_starving_device_shows_the_hosts_pace(played) -> None:
    device, clock = played
    origin = clock.start()
    for _ in range(10):
        device.launch(0.0001, overhead=0.01)
    [wall] = clock.seconds(origin, [clock.finish()])
    assert wall == pytest.approx(0.1001)


def test_the_clock_fits_the_device() -> None:
    assert isinstance(clock_for(torch.device("cpu")), HostClock)
    assert isinstance(clock_for(torch.device("cuda")), CudaClock)


@pytest.mark.parametrize("name", ["mps", "xpu:0"])
def test_other_gpus_are_timed_by_their_own_synchronise(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark is when the device is done; what that costs, and what it cannot show, is said."""
    waited = []
    monkeypatch.setattr("halftime.verbs.profile.clock.synchronize", waited.append)
    device = torch.device(name)
    clock = clock_for(device)
    assert isinstance(clock, WaitingClock)
    origin = clock.start()
    marks = [clock.mark(), clock.finish()]
    assert waited == [device] * 3
    assert clock.seconds(origin, marks)[1] >= clock.seconds(origin, marks)[0] >= 0
    assert f"on {device.type} each stage is timed by waiting" in remarks_on(device)[0]
    assert "launch gaps" in remarks_on(device)[0]
    assert remarks_on(torch.device("cpu")) == remarks_on(torch.device("cuda")) == ()


@pytest.mark.gpu
def test_on_a_real_device_the_clock_agrees_with_the_wall() -> None:
    clock = clock_for(torch.device("cuda", 0))
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        matrix @ matrix
    origin = clock.start()
    for _ in range(50):
        matrix @ matrix
    end = clock.finish()
    assert clock.seconds(origin, [end])[0] == pytest.approx(end.host - origin.host, rel=0.05)
