"""Clocks: mark a moment now, learn its time later, when asking cannot disturb what is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from halftime.pipeline.device import synchronize


class Mark(NamedTuple):
    """A moment: when the host passed it, and on CUDA the event that the device will pass."""

    host: float
    event: torch.cuda.Event | None = None


class Clock(Protocol):
    """What the recorder needs of a clock."""

    def start(self) -> Mark:
        """Begin a call: the device is idle, and time is zero."""

    def mark(self) -> Mark:
        """The moment that the host, and the work queued so far on the device, have reached."""

    def finish(self) -> Mark:
        """End a call: wait until the device has done everything."""

    def seconds(self, origin: Mark, marks: Sequence[Mark]) -> list[float]:
        """Seconds from `origin` to each mark, on the clock that the ledger adds up on. Call after
        `finish`."""


class HostClock:
    """The host's monotonic clock, for devices that work while the host waits."""

    def start(self) -> Mark:
        return self.mark()

    def mark(self) -> Mark:
        return Mark(time.perf_counter())

    def finish(self) -> Mark:
        return self.mark()

    def seconds(self, origin: Mark, marks: Sequence[Mark]) -> list[float]:
        return [mark.host - origin.host for mark in marks]


class CudaClock:
    """Events on the current stream: a mark is when the device gets there, however far the host has
    run ahead.

    A timer on the host alone measures time-to-queue. The device works through one stream in order,
    so intervals between events split its time line without overlap, and the last mark, after a
    synchronise, is the end of the call. Where the device is not the call's `alone`, its own stream
    is waited for, and not what others do in theirs.
    """

    def __init__(self, device: torch.device, alone: bool = True) -> None:
        self._cuda, self._device, self._alone = torch.cuda, device, alone

    def start(self) -> Mark:
        self._wait()
        return self.mark()

    def _wait(self) -> None:
        if self._alone:
            self._cuda.synchronize(self._device)
        else:
            self._cuda.current_stream(self._device).synchronize()

    def mark(self) -> Mark:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return Mark(time.perf_counter(), event)

    def finish(self) -> Mark:
        mark = self.mark()
        self._wait()
        # The host's time after the wait: what the caller of the pipeline would see.
        return Mark(time.perf_counter(), mark.event)

    def seconds(self, origin: Mark, marks: Sequence[Mark]) -> list[float]:
        assert origin.event is not None
        return [
            origin.event.elapsed_time(mark.event) * 1e-3 for mark in marks if mark.event is not None
        ]


class WaitingClock(HostClock):
    """The host's clock, read after the device has done everything: for GPUs whose events halftime
    does not use. Stages are told apart rightly, but the host runs ahead nowhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Mark:
        synchronize(self._device)
        return Mark(time.perf_counter())


WAITS_AT_EACH_MARK = (
    "on {device} each stage is timed by waiting for the device, so that the call takes longer than "
    "alone where the host would run ahead; launch gaps and host-blocked time are not measured there"
)


def clock_for(device: torch.device, *, alone: bool = True) -> Clock:
    """The clock of a device; not `alone` where other threads use it too."""
    if device.type == "cuda":
        return CudaClock(device, alone)
    return WaitingClock(device) if device.type in ("mps", "xpu") else HostClock()


def remarks_on(device: torch.device) -> tuple[str, ...]:
    """What a reader must know of how this device is timed."""
    waits = isinstance(clock_for(device), WaitingClock)
    return (WAITS_AT_EACH_MARK.format(device=device.type),) if waits else ()
