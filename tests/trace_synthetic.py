"""Traces of a GPU run with known truth: a host that queues work and a device that does it, in
Kineto's format.

Times are microseconds. The device takes operations of a stream in order, each no sooner than its
launching call has ended and the latency has passed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PID, THREAD, STREAM = 1234, 1234, 7
EPOCH = 4555288287032.0  # microseconds since baseTimeNanoseconds, as large as real ones


@dataclass
class Synthetic:
    """Call its methods in the order of the program; `events` is the trace, `idle` what the device
    waited for."""

    overhead: float = 4.0  # of a launching call on the host
    latency: float = 2.0  # from the end of that call to the operation's start
    host: float = 0.0
    # when the device will have done everything; None before its first operation
    free: float | None = None
    events: list[dict[str, object]] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=lambda: {"host": 0.0, "sync": 0.0, "other": 0.0})
    busy: float = 0.0
    waits: list[tuple[float, float]] = field(default_factory=list)

    def work(self, duration: float) -> None:
        """The host does something of its own."""
        self.host += duration

    def event(
        self, category: str, name: str, start: float, duration: float, **args: object
    ) -> None:
        on_device = category in ("kernel", "gpu_memcpy", "gpu_memset")
        self.events.append(
            {
                "ph": "X",
                "cat": category,
                "name": name,
                "pid": 0 if on_device else PID,
                "tid": STREAM if on_device else THREAD,
                "ts": EPOCH + start,
                "dur": duration,
                "args": args,
            }
        )

    def launch(
        self,
        name: str,
        duration: float,
        *,
        category: str = "kernel",
        call: str = "cudaLaunchKernel",
        **args: object,
    ) -> None:
        """Queue an operation."""
        begin, number = self.host, len(self.events)
        self.host += self.overhead
        self.event("cuda_runtime", call, begin, self.overhead, correlation=number)
        start = self.host + self.latency
        if self.free is not None:
            start = max(start, self.free)
            self._account(start)
        self.event(
            category, name, start, duration, correlation=number, device=0, stream=STREAM, **args
        )
        self.busy += duration
        self.free = start + duration

    def _account(self, start: float) -> None:
        assert self.free is not None
        late = max(0.0, self.host - self.free)
        waited = any(since <= self.free <= until for since, until in self.waits)
        self.idle["sync" if waited else "host"] += min(late, start - self.free)
        self.idle["other"] += max(0.0, start - self.free - late)

    def copy_to_host(self, size: int, duration: float = 1.0) -> None:
        """What `.item()` and `.cpu()` do: a copy, and a wait for it."""
        self.copy("Memcpy DtoH (Device -> Pageable)", size, duration)
        self.synchronize()

    def copy(self, name: str, size: int, duration: float) -> None:
        """Queue a copy of `size` bytes."""
        self.launch(name, duration, category="gpu_memcpy", call="cudaMemcpyAsync", bytes=size)

    def synchronize(self, name: str = "cudaStreamSynchronize") -> None:
        """Wait for the device."""
        begin = self.host
        self.host = max(self.host, self.free or 0.0) + 1.0
        self.waits.append((begin, self.host))
        self.event("cuda_runtime", name, begin, self.host - begin, correlation=len(self.events))

    @contextmanager
    def range(self, name: str, category: str = "user_annotation") -> Iterator[None]:
        """A named range of the host."""
        begin = self.host
        yield
        self.event(category, name, begin, self.host - begin)

    def memory(self, allocated: int) -> None:
        """The allocator's own report."""
        self.events.append(
            {
                "ph": "i",
                "s": "t",
                "cat": "cpu_instant_event",
                "name": "[memory]",
                "pid": PID,
                "tid": THREAD,
                "ts": EPOCH + self.host,
                "args": {"Total Allocated": allocated, "Device Type": 1, "Device Id": 0},
            }
        )

    def data(self) -> dict[str, object]:
        return {
            "schemaVersion": 1,
            "deviceProperties": [{"id": 0, "name": "Synthetic"}],
            "displayTimeUnit": "ms",
            "baseTimeNanoseconds": 1790857026000000000,
            "distributedInfo": {"rank": 0, "world_size": 1, "backend": "nccl"},
            "traceEvents": self.events,
        }

    def write(self, path: Path) -> Path:
        """Write as torch.profiler does, gzipped if the name ends in .gz."""
        text = json.dumps(self.data(), indent=1).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        return path


def diffusion(
    trace: Synthetic,
    steps: int = 5,
    kernels: int = 20,
    kernel: float = 50.0,
    sync_every_step: bool = True,
    ranged: bool = True,
) -> Synthetic:
    """A pipeline: encode, `steps` denoising steps of `kernels` kernels, each with an `.item()`,
    decode."""

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if ranged:
            with trace.range(name):
                yield
        else:
            yield

    with stage("halftime/encode_prompt"):
        for _ in range(4):
            trace.launch("sm80_gemm_text", 30.0)
    for step in range(steps):
        with stage(f"halftime/denoise/denoiser#{step}"):
            for index in range(kernels):
                trace.launch(
                    f"{'sm80_xmma_fprop_conv' if index % 2 else 'elementwise_kernel'}_{index}",
                    kernel,
                )
        with stage(f"halftime/denoise/scheduler#{step}"):
            trace.launch("elementwise_scheduler", 3.0)
            if sync_every_step:
                trace.copy_to_host(4)
                trace.work(100.0)
    with stage("halftime/vae_decode/vae"):
        for _ in range(6):
            trace.launch("cudnn_conv_vae", 400.0)
        trace.synchronize("cudaDeviceSynchronize")
    return trace
