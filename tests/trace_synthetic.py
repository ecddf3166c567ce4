"""Recordings of a GPU run with known truth, in the words of each vendor's profiler.

A host queues work and devices do it. Times are microseconds. A device takes the operations of a
stream in order, each no sooner than its launching call has ended and the latency has passed.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PID, THREAD, STREAM = 1234, 1234, 7
EPOCH = 4555288287032.0  # microseconds since baseTimeNanoseconds, as large as real ones


@dataclass(frozen=True)
class Vendor:
    """What one vendor's profiler calls its events."""

    device_name: str = "Synthetic"
    runtime: str = "cuda_runtime"
    kernel: str = "kernel"
    copy: str = "gpu_memcpy"
    launch: str = "cudaLaunchKernel"
    graph: str = "cudaGraphLaunch"
    copy_call: str = "cudaMemcpyAsync"
    wait: str = "cudaStreamSynchronize"
    malloc: str = "cudaMalloc"
    to_host: str = "Memcpy DtoH (Device -> Pageable)"
    to_device: str = "Memcpy HtoD (Pageable -> Device)"
    runtime_args: dict[str, object] = field(default_factory=dict)
    device_args: bool = True  # whether operations say on which device and stream they ran


VENDORS = {
    "cuda": Vendor(),
    # ROCm 6.2 writes CUDA's categories, its own names, and the stream of a call as text.
    "rocm": Vendor(
        device_name="AMD Instinct MI300X",
        launch="hipExtModuleLaunchKernel",
        graph="hipGraphLaunch",
        copy_call="hipMemcpyAsync",
        wait="hipStreamSynchronize",
        malloc="hipMalloc",
        to_host="CopyDeviceToHost",
        to_device="CopyHostToDevice",
        runtime_args={"stream": "0x0", "cid": 153, "kind": "1"},
    ),
    "xpu": Vendor(
        device_name="Intel(R) Data Center GPU Max 1550",
        runtime="xpu_runtime",
        launch="urEnqueueKernelLaunch",
        graph="urEnqueueCommandBufferExp",
        copy_call="urEnqueueUSMMemcpy",
        wait="urEventWait",
        malloc="urUSMDeviceAlloc",
        to_host="Memcpy D2H",
        to_device="Memcpy H2D",
    ),
    "mtia": Vendor(
        device_name="ARTEMIS",
        runtime="mtia_runtime",
        kernel="mtia_ccp_events",
        copy="mtia_ccp_events",
        launch="runFunction - job_prep_and_submit_for_execution",
        copy_call="enqueueCommand memcpyDtoHAsync",
        wait="synchronizeStream",
        to_host="dma_request DEVICE_TO_HOST",
        to_device="dma_request HOST_TO_DEVICE",
        device_args=False,
    ),
    "privateuse1": Vendor(
        device_name="Ascend910B",
        runtime="privateuse1_runtime",
        launch="aclrtLaunchKernel",
        copy_call="aclrtMemcpyAsync",
        wait="aclrtSynchronizeStream",
        malloc="aclrtMalloc",
    ),
}


@dataclass
class Synthetic:
    """Call its methods in the order of the program; `events` is the trace, `idle` what the devices
    waited for."""

    overhead: float = 4.0  # of a launching call on the host
    latency: float = 2.0  # from the end of that call to the operation's start
    vendor: Vendor = field(default_factory=Vendor)
    host: float = 0.0
    # when the devices will have done everything; None before the first operation
    free: float | None = None
    events: list[dict[str, object]] = field(default_factory=list)
    idle: dict[str, float] = field(
        default_factory=lambda: {"host": 0.0, "sync": 0.0, "allocator": 0.0, "other": 0.0}
    )
    busy: float = 0.0  # while any device had work
    waits: list[tuple[float, float]] = field(default_factory=list)
    allocations: list[tuple[float, float]] = field(default_factory=list)
    rank: int = 0
    world_size: int = 1
    _streams: dict[tuple[int, int], float] = field(default_factory=dict)

    def work(self, duration: float) -> None:
        """The host does something else."""
        self.host += duration

    def event(
        self, category: str, name: str, start: float, duration: float, **args: object
    ) -> dict[str, object]:
        on_device = category in (self.vendor.kernel, self.vendor.copy, "gpu_memset")
        event: dict[str, object] = {
            "ph": "X",
            "cat": category,
            "name": name,
            "pid": args.get("device", 0) if on_device else PID,
            "tid": args.get("stream", STREAM) if on_device else THREAD,
            "ts": EPOCH + start,
            "dur": duration,
            "args": args,
        }
        if on_device and not self.vendor.device_args:
            event["args"] = {k: v for k, v in args.items() if k not in ("device", "stream")}
        self.events.append(event)
        return event

    def call(self, name: str, duration: float, **args: object) -> int:
        """A call of the runtime; its correlation id."""
        number = len(self.events) + 1
        merged = {**self.vendor.runtime_args, **args, "correlation": number}
        self.event(self.vendor.runtime, name, self.host, duration, **merged)
        self.host += duration
        return number

    def launch(
        self,
        name: str,
        duration: float,
        *,
        category: str = "",
        call: str = "",
        device: int = 0,
        stream: int = STREAM,
        **args: object,
    ) -> None:
        """Queue an operation."""
        number = self.call(call or self.vendor.launch, self.overhead)
        self.operation(number, name, duration, category, device, stream, **args)

    def replay(self, kernels: list[tuple[str, float]]) -> None:
        """One launch of a graph with these kernels."""
        number = self.call(self.vendor.graph, self.overhead)
        for name, duration in kernels:
            self.operation(number, name, duration)

    def operation(
        self,
        number: int,
        name: str,
        duration: float,
        category: str = "",
        device: int = 0,
        stream: int = STREAM,
        **args: object,
    ) -> None:
        """What a device does for the call with that correlation id."""
        start = max(self.host + self.latency, self._streams.get((device, stream), 0.0))
        if self.free is not None:
            self._account(start)
        self.event(
            category or self.vendor.kernel,
            name,
            start,
            duration,
            correlation=number,
            device=device,
            stream=stream,
            **args,
        )
        end = start + duration
        self._streams[device, stream] = end
        self.busy += max(0.0, end - max(start, self.free or start))
        self.free = max(end, self.free or end)

    def _account(self, start: float) -> None:
        assert self.free is not None
        if start <= self.free:
            return
        late = min(max(0.0, self.host - self.free), start - self.free)
        self.idle["other"] += start - self.free - late
        # Without the wait that was on when the queue ran dry the host would have been ahead by it.
        on = [until - since for since, until in self.waits if since <= self.free <= until]
        sync = min(late, on[-1]) if on else 0.0
        in_allocator = sum(
            max(0.0, min(until, self.free + late) - max(since, self.free))
            for since, until in self.allocations
        )
        allocator = min(in_allocator, late - sync)
        self.idle["sync"] += sync
        self.idle["allocator"] += allocator
        self.idle["host"] += late - sync - allocator

    def copy_to_host(self, size: int, duration: float = 1.0) -> None:
        """What `.item()` and `.cpu()` do: a copy, and a wait for it."""
        self.copy(self.vendor.to_host, size, duration)
        self.synchronize()

    def copy(self, name: str, size: int, duration: float, stream: int = STREAM) -> None:
        """Queue a copy of `size` bytes."""
        self.launch(
            name,
            duration,
            category=self.vendor.copy,
            call=self.vendor.copy_call,
            stream=stream,
            bytes=size,
        )

    def synchronize(self, name: str = "") -> None:
        """Wait for the device."""
        begin = self.host
        duration = max(self.host, self.free or 0.0) + 1.0 - begin
        self.call(name or self.vendor.wait, duration)
        self.waits.append((begin, self.host))

    def allocate(self, duration: float) -> None:
        """Ask the driver for memory."""
        begin = self.host
        self.call(self.vendor.malloc, duration)
        self.allocations.append((begin, self.host))

    @contextmanager
    def range(self, name: str, category: str = "user_annotation", **args: object) -> Iterator[None]:
        """A named range of the host."""
        begin = self.host
        yield
        self.event(category, name, begin, self.host - begin, **args)

    def frame(self, name: str) -> AbstractContextManager[None]:
        """A Python frame, or a module, as with_stack records it."""
        return self.range(name, "python_function")

    def memory(self, allocated: int) -> None:
        """The allocator's report."""
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
            "deviceProperties": [{"id": 0, "name": self.vendor.device_name}],
            "displayTimeUnit": "ms",
            "baseTimeNanoseconds": 1790857026000000000,
            "distributedInfo": {
                "rank": self.rank,
                "world_size": self.world_size,
                "backend": "nccl",
            },
            "traceEvents": self.events,
        }

    def text(self) -> str:
        """As torch.profiler writes it."""
        return json.dumps(self.data(), indent=1)

    def write(self, path: Path) -> Path:
        """Write as torch.profiler does, gzipped if the name ends in .gz."""
        text = self.text().encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        return path

    def write_nsight(self, path: Path) -> Path:
        """The same run as `nsys export --type sqlite` writes it, with ranges as NVTX."""
        strings: dict[str, int] = {}

        def text(name: str) -> int:
            return strings.setdefault(name, len(strings) + 1)

        with closing(sqlite3.connect(path)) as database:
            database.executescript(_NSIGHT)
            for event in self.events:
                if event["ph"] != "X":
                    continue
                args = event["args"]
                assert isinstance(args, dict)
                start = round((float(str(event["ts"])) - EPOCH) * 1000)
                span = start, start + round(float(str(event["dur"])) * 1000)
                name = str(event["name"])
                if event["cat"] == "kernel":
                    row = (*span, 0, args["stream"], args["correlation"], text(name), text(name))
                    database.execute(
                        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?,?,?,?,?,?,?)", row
                    )
                elif event["cat"] == "gpu_memcpy":
                    kind = 2 if "DtoH" in name else 1
                    row = (*span, 0, args["stream"], args["correlation"], args["bytes"], kind)
                    database.execute(
                        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?,?,?,?,?,?,?)", row
                    )
                elif event["cat"] == "cuda_runtime":
                    row = (*span, THREAD, args["correlation"], text(f"{name}_v3020"))
                    database.execute(
                        "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?,?,?,?,?)", row
                    )
                else:
                    row = (*span, 59, name, None, THREAD)
                    database.execute("INSERT INTO NVTX_EVENTS VALUES (?,?,?,?,?,?)", row)
            database.executemany(
                "INSERT INTO StringIds VALUES (?,?)", [(at, name) for name, at in strings.items()]
            )
            card = (0, self.vendor.device_name, 24 << 30)
            database.execute("INSERT INTO TARGET_INFO_GPU VALUES (?,?,?)", card)
            database.commit()
        return path


_NSIGHT = """
CREATE TABLE StringIds (id INTEGER, value TEXT);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER,
  streamId INTEGER, correlationId INTEGER, demangledName INTEGER, shortName INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, deviceId INTEGER,
  streamId INTEGER, correlationId INTEGER, bytes INTEGER, copyKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, globalTid INTEGER,
  correlationId INTEGER, nameId INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT,
  textId INTEGER, globalTid INTEGER);
CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, totalMemory INTEGER);
"""


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


def framed(
    trace: Synthetic, steps: int = 4, module: str = "UNet2DConditionModel_0", walk: float = 0.0
) -> Synthetic:
    """One call as a recording with stacks has it: frames of diffusers and modules, no ranges.

    Each step walks the module tree for `walk` microseconds, as `cache_context` does.
    """
    with trace.frame("diffusers/pipelines/flux/pipeline_flux.py(652): __call__"):
        with (
            trace.frame("diffusers/pipelines/flux/pipeline_flux.py(311): encode_prompt"),
            trace.frame("nn.Module: T5EncoderModel_0"),
        ):
            for _ in range(3):
                trace.launch("gemm_text", 100.0)
        for _ in range(steps):
            if walk:
                with (
                    trace.frame("diffusers/models/cache_utils.py(154): cache_context"),
                    trace.frame("torch/nn/modules/module.py(2868): named_modules"),
                ):
                    trace.work(walk)
            with trace.frame(f"nn.Module: {module}"):
                for index in range(10):
                    trace.launch(f"gemm_{index}", 100.0)
            with trace.frame("diffusers/schedulers/scheduling_flow.py(425): step"):
                trace.launch("elementwise_step", 5.0)
                trace.copy_to_host(4)
        with trace.frame("diffusers/models/autoencoders/autoencoder_kl.py(300): decode"):
            for _ in range(3):
                trace.launch("conv_vae", 300.0)
            trace.synchronize()
    return trace


def flux_sized(trace: Synthetic, steps: int = 28, blocks: int = 57) -> Synthetic:
    """A call as large as FLUX.1's at 1024 pixels: 57 blocks of 26 kernels, 28 steps.

    Each step looks for cached hooks by walking the module tree, for 7 ms, after the scheduler has
    read a number back from the device; the VAE decodes at the end.
    """
    root = "diffusers/pipelines/flux"
    with trace.frame(f"{root}/pipeline_flux.py(652): __call__"):
        with (
            trace.frame(f"{root}/pipeline_flux.py(311): encode_prompt"),
            trace.frame("nn.Module: T5EncoderModel_0"),
        ):
            for layer in range(24):
                for kernel in range(12):
                    trace.launch(f"sm90_gemm_t5_{kernel}", 60.0 if layer else 80.0)
        for _ in range(steps):
            with (
                trace.frame("diffusers/models/cache_utils.py(154): cache_context"),
                trace.frame("torch/nn/modules/module.py(2868): named_modules"),
            ):
                trace.work(7000.0)
            with trace.frame("nn.Module: FluxTransformer2DModel_0"):
                for _ in range(blocks):
                    for kernel in range(26):
                        kind = "gemm" if kernel % 3 else "elementwise"
                        trace.launch(f"sm90_{kind}_{kernel}", 28.0)
            with trace.frame(
                "diffusers/schedulers/scheduling_flow_match_euler_discrete.py(425): step"
            ):
                trace.launch("elementwise_step", 5.0)
                trace.copy_to_host(4)
        with trace.frame("diffusers/models/autoencoders/autoencoder_kl.py(300): decode"):
            for layer in range(60):
                trace.launch(f"cudnn_conv_vae_{layer % 7}", 900.0)
        with trace.frame("diffusers/image_processor.py(738): postprocess"):
            trace.copy_to_host(6_291_456, 500.0)
    return trace
