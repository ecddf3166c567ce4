"""What `profile` measured and what `trace` read: one record for both."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.environment import Environment
from halftime.records.finding import Finding
from halftime.records.workload import Workload

UNEXPLAINED = "unexplained"
BUNDLED = "bundled"  # the bundled model where a command names it; a session's name begins so


class Span(Record, frozen=True, kw_only=True):
    """One timed interval of a call. Spans nest; `depth` 0 is directly under the call.

    `start` and `seconds` are on the clock that the ledger adds up on: the host's on a CPU, the
    device's (events on the stream) on CUDA. `host_seconds` is how long the host was inside.
    """

    stage: str  # 'encode_prompt', 'denoise', 'vae_decode', …
    name: str  # what ran: 'unet', 'scheduler.step', 'vae.decode'
    part: str  # 'denoiser', 'scheduler', 'progress_bar', 'vae', …
    start: float  # seconds from the start of the call
    seconds: float
    depth: int = 0
    step: int | None = None  # denoising step, from 0
    host_seconds: float | None = None


class Run(Record, frozen=True, kw_only=True):
    """One timed call of the pipeline; on CUDA it ends after a synchronise."""

    wall_seconds: float
    spans: tuple[Span, ...] = ()
    load_average: float | None = None


class StepStats(Record, frozen=True, kw_only=True):
    """One part's duration over the denoising steps of all steady runs."""

    count: int  # steps in one call
    median_seconds: float
    p90_seconds: float
    spread: float  # interquartile range over the median


class LedgerRow(Record, frozen=True, kw_only=True):
    """One stage of the call. Top-level rows add up to the wall clock; `parts` add up to their row.

    Seconds are means over the middle half of the steady runs (by wall clock): robust, and still
    additive.
    """

    stage: str
    seconds: float
    share: float  # of the wall clock
    first_call_seconds: float | None = None
    calls: int = 0  # of the component, in one call of the pipeline
    per_step: StepStats | None = None
    host_seconds: float | None = None  # CUDA: time that the host spent issuing this stage
    host_blocked_seconds: float | None = None  # CUDA: of that, waiting for the device
    launch_gap_seconds: float | None = None  # CUDA: the device waited for the host
    flops: float | None = None
    flops_per_second: float | None = None
    parts: tuple[LedgerRow, ...] = ()


class StageMemory(Record, frozen=True, kw_only=True):
    """Memory of one stage, in bytes; None where it cannot be known on this device."""

    stage: str
    peak_bytes: int | None = None  # highest during the stage
    end_bytes: int | None = None  # at its end
    reserved_bytes: int | None = None  # CUDA caching allocator


class MemoryGrowth(Record, frozen=True, kw_only=True):
    """What a call leaves behind, in the stage that made it: nobody lets go of it."""

    stage: str
    kind: str  # 'float32 tensor 1x4x128x128', 'picture 1024x1024'
    count: int
    bytes: int


class MemoryReport(Record, frozen=True, kw_only=True):
    """`measure` says what the numbers are: 'resident set of the process' or 'CUDA allocator'."""

    measure: str
    stages: tuple[StageMemory, ...] = ()
    of_device: bool = False  # the device's own memory, and not the process's
    capacity_bytes: int | None = None  # of the device
    growth_per_call: int = 0  # bytes, where every steady call held more than the one before
    left_behind: tuple[MemoryGrowth, ...] = ()  # by one call, where memory grows


class WeightMoves(Record, frozen=True, kw_only=True):
    """What offloading hooks moved of one component in one stage of a call, in one direction.

    Each move was waited for, in a call of its own. `ahead`: in use they are made beside what
    computes, on a stream of their own, so that a part of these seconds is hidden.
    """

    component: str
    stage: str  # in which it was moved, which need not be the component's own
    to_device: bool  # or away from it
    how: Literal["model", "sequential", "group", "device map"]
    count: int
    steps: int  # denoising steps in which it happened
    bytes: int
    seconds: float
    ahead: bool = False


class Recompile(Record, frozen=True, kw_only=True):
    """A graph that torch.compile built again, or broke; `reason` is in plain words."""

    where: str
    reason: str
    count: int = 1


class CompileReport(Record, frozen=True, kw_only=True):
    """What dynamo did during the session."""

    compiled: tuple[str, ...] = ()  # components that are compiled
    graphs: int = 0
    compile_seconds: float = 0.0
    recompiles: tuple[Recompile, ...] = ()
    graph_breaks: tuple[Recompile, ...] = ()
    after_warmup: int = 0  # graphs built after the warm-up: always a fault


class ColdStart(Record, frozen=True, kw_only=True):
    """A fresh process, from its start to its first picture, in seconds."""

    process_seconds: float  # the whole of it, seen from outside
    import_seconds: float
    load_seconds: float
    first_call_seconds: float
    first_call: tuple[LedgerRow, ...] = ()


class DeviceTotals(Record, frozen=True, kw_only=True):
    """The device's own time line, where one was recorded."""

    busy_seconds: float
    idle_seconds: float
    # 'host', 'sync', 'allocator', 'other' -> seconds; they add up to idle_seconds
    idle_by_cause: dict[str, float] = {}
    kernels: int = 0
    memcpy_bytes: dict[str, int] = {}  # 'HtoD', 'DtoH', 'DtoD' -> bytes


class KernelTotal(Record, frozen=True, kw_only=True):
    """All launches of one kernel in one stage."""

    name: str
    count: int
    seconds: float


class StageOnDevice(Record, frozen=True, kw_only=True):
    """What a traced device did in one stage."""

    stage: str
    busy_seconds: float
    idle_seconds: float
    idle_by_cause: dict[str, float] = {}
    # 'launch-bound', 'transfer-bound', 'communication-bound', 'idle', 'compute-bound',
    # 'memory-bound' or 'unknown'
    bound: str = "unknown"
    kernels: int = 0
    kernels_per_step: float | None = None
    # median, from the end of the launching call to the kernel's start
    launch_latency_seconds: float | None = None
    queue_depth: float | None = None  # median number of operations queued when one was launched
    graph_replays: int = 0
    memory_growth_bytes: int | None = None  # allocated at its end less at its start
    top_kernels: tuple[KernelTotal, ...] = ()


class SyncWait(Record, frozen=True, kw_only=True):
    """A place where the host waited for the device."""

    name: str  # cudaStreamSynchronize, cudaMemcpy …
    stage: str
    count: int
    host_seconds: float  # what the host waited
    wall_seconds: float  # of that, idle time of the device that it can have caused: its cost
    where: tuple[str, ...] = ()  # Python stack, innermost first, where it was recorded


class HostGap(Record, frozen=True, kw_only=True):
    """A line of Python during which a traced device had nothing to do, per call."""

    frame: str  # 'diffusers/models/cache_utils.py(154): cache_context'
    stage: str
    seconds: float  # idle while the host was in this frame and in none of a user or library below
    share: float  # of the wall clock
    ceiling: float | None = None  # speedup of the whole call if that time vanished
    where: tuple[str, ...] = ()  # its callers, innermost first


class Transfer(Record, frozen=True, kw_only=True):
    """Copies of one direction in one stage, per call."""

    stage: str
    direction: str  # 'HtoD', 'DtoH', 'DtoD'
    count: float
    seconds: float
    exposed_seconds: float  # of that, not hidden behind kernels of the same device
    bytes: int | None = None


class Communication(Record, frozen=True, kw_only=True):
    """Kernels of one collective in one stage, per call."""

    stage: str
    name: str
    count: float
    seconds: float
    exposed_seconds: float  # of that, not hidden behind other kernels of the same device


class TracedDevice(Record, frozen=True, kw_only=True):
    """One device's time line over the recording."""

    device: int
    name: str
    busy_seconds: float
    idle_seconds: float  # between the first and the last operation of any device
    operations: int
    alone_seconds: float = 0.0  # busy while no other device was


class TracedRank(Record, frozen=True, kw_only=True):
    """One rank of a run whose files were read together."""

    rank: int
    wall_seconds: float
    busy_seconds: float
    communication_seconds: float
    # in collectives, longer than the rank that came last: it waited for that one
    waited_seconds: float


class OperationRate(Record, frozen=True, kw_only=True):
    """Operators of one kind and shape, against the card's roofline; seconds are the device's."""

    name: str
    shapes: str
    stage: str
    count: int
    seconds: float
    flops: float
    bytes: float
    flops_per_second: float
    # what the card's peak arithmetic or bandwidth would take; None where the card is not known
    roofline_seconds: float | None = None


# Schema history
# 1  2026-11  first; host_gaps, transfers, communication, devices, ranks, operations, pictures and
#             moves came later, with defaults
class Session(Record, frozen=True, kw_only=True):
    """A measured call: what ran, where, the ledger, the runs under it, and the findings."""

    schema: Literal[1] = 1
    kind: Literal["profile", "trace"] = "profile"
    halftime: str = ""  # the version that wrote it
    created: str = ""  # ISO 8601, UTC
    model: str = ""
    pipeline: str = ""  # class name
    wall_seconds: float
    first_call_seconds: float | None = None
    ledger: tuple[LedgerRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    environment: Environment
    workload: Workload
    workload_hash: str = ""
    runs: tuple[Run, ...] = ()  # the steady ones
    first_run: Run | None = None
    cold_start: ColdStart | None = None
    memory: MemoryReport | None = None
    moves: tuple[WeightMoves, ...] = ()  # of weights, by offloading hooks
    compilation: CompileReport | None = None
    device: DeviceTotals | None = None
    on_device: tuple[StageOnDevice, ...] = ()
    syncs: tuple[SyncWait, ...] = ()
    host_gaps: tuple[HostGap, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    communication: tuple[Communication, ...] = ()
    devices: tuple[TracedDevice, ...] = ()  # where there are several
    ranks: tuple[TracedRank, ...] = ()  # where files of several were read together
    operations: tuple[OperationRate, ...] = ()  # those furthest from their roofline
    pictures: tuple[str, ...] = ()  # what the last call drew, small: data URIs
    notes: tuple[str, ...] = ()  # facts a reader needs: 'seeded random weights'
    doubts: tuple[str, ...] = ()  # why a number may not be trusted, each with the next command

    @property
    def model_argument(self) -> str | None:
        """What a command loads the same model by; None for a pipeline that was a Python object."""
        if self.model.startswith(BUNDLED):
            return BUNDLED
        return self.model if self.model and self.model != self.pipeline else None

    def row(self, stage: str) -> LedgerRow | None:
        """The top-level ledger row of a stage, or None."""
        return next((row for row in self.ledger if row.stage == stage), None)
