"""What `forecast` says: stages with their bands and floors, each fix's savings, how surely."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record

Bound = Literal["compute", "memory", "launch"]


class StageForecast(Record, frozen=True, kw_only=True):
    """One stage of one call, or the whole of it. Seconds with a 90 % band."""

    stage: str
    seconds: float
    low: float
    high: float
    # arithmetic at the peak rate, weights read once: no software is faster at this precision
    floor_seconds: float
    bound: Bound
    flops: float
    bytes: float  # read and written
    kernels: int
    device_seconds: float  # the GPU alone
    # Python and the dispatcher alone; where larger than the device's, launches bound the stage
    host_seconds: float
    # peak that torch allocates while it runs: all weights that are loaded, and this stage's
    # activations; the CUDA context comes on top
    memory_bytes: float = 0.0


class OperationShare(Record, frozen=True, kw_only=True):
    """All operations of one kind in one stage: a point on the roofline picture."""

    stage: str
    kind: str
    seconds: float  # on the device, in one call
    flops: float
    bytes: float
    bound: Bound


class FixForecast(Record, frozen=True, kw_only=True):
    """What a fix would save of the whole call: ratio = seconds without / with, with a 90 % band."""

    fix: str
    kind: str = ""  # of a fix that has kinds
    ratio: float
    low: float
    high: float
    # with every fix above it as well; None where it is not part of the stack
    stacked_ratio: float | None = None
    note: str = ""  # what was assumed


class ClaimVerdict(Record, frozen=True, kw_only=True):
    """Whether a claimed number is possible, and the arithmetic."""

    stage: str
    claimed_seconds: float
    verdict: Literal["possible", "implausible", "impossible"]
    arithmetic: str


class Price(Record, frozen=True, kw_only=True):
    """One GPU's cost of one picture."""

    gpu: str
    seconds: float  # one picture
    low: float
    high: float
    per_hour: float
    per_picture: float
    meets_target: bool
    fits: bool


class Ceiling(Record, frozen=True, kw_only=True):
    """The roof of the roofline picture: FLOP/s and bytes/s."""

    compute: float
    bandwidth: float


# Schema history
# 1  2026-11  first
class Forecast(Record, frozen=True, kw_only=True):
    """A forecast, whole."""

    schema: Literal[1] = 1
    kind: Literal["forecast"] = "forecast"
    halftime: str = ""
    model: str
    gpu: str
    width: int
    height: int
    steps: int
    batch: int  # pictures of one call
    guidance: bool
    dtype: str
    compiled: bool
    stages: tuple[StageForecast, ...]
    total: StageForecast
    fixes: tuple[FixForecast, ...] = ()
    claims: tuple[ClaimVerdict, ...] = ()
    prices: tuple[Price, ...] = ()
    operations: tuple[OperationShare, ...] = ()
    ceiling: Ceiling
    parameters: dict[str, float] = {}  # component -> number of parameters
    memory_bytes: float  # peak
    gpu_memory_bytes: float
    fits: bool
    calibrated_on: str  # what the constants and this GPU's factors rest on
    notes: tuple[str, ...] = ()


class RowResult(Record, frozen=True, kw_only=True):
    """One measured row and its forecast; `error` is relative, None for a calibration row."""

    id: str
    gpu: str
    kind: str
    family: str
    measured_seconds: float
    forecast_seconds: float
    low: float
    high: float
    floor_seconds: float
    error: float | None  # (forecast - measured) / measured


class ErrorSummary(Record, frozen=True, kw_only=True):
    """Absolute relative errors of a group of rows."""

    group: str
    rows: int
    median: float
    p90: float
    bias: float  # median signed error
    within_band: float  # share of rows inside the 90 % band


class RowRefused(Record, frozen=True, kw_only=True):
    """A row that was not evaluated, and why."""

    id: str
    gpu: str
    kind: str
    reason: str


class EvaluationReport(Record, frozen=True, kw_only=True):
    """Forecasts against measurements."""

    schema: Literal[1] = 1
    kind: Literal["forecast-evaluation"] = "forecast-evaluation"
    calibrate: Literal["none", "one-per-gpu"]
    fitted_on: str
    overall: ErrorSummary | None
    by_kind: tuple[ErrorSummary, ...] = ()
    by_gpu: tuple[ErrorSummary, ...] = ()
    by_family: tuple[ErrorSummary, ...] = ()
    ordering: float | None = None  # share of pairs of rows on one GPU that are in the right order
    ordering_pairs: int = 0
    # the same, of pairs that differ by more than the noise between sources
    ordering_clear: float | None = None
    floor_above_measurement: int = 0  # must be 0
    calibration_rows: tuple[str, ...] = ()
    rows: tuple[RowResult, ...] = ()
    not_evaluated: tuple[RowRefused, ...] = ()


class Observation(Record, frozen=True, kw_only=True):
    """One stage as measured, beside the forecast before and after the calibration."""

    stage: str
    measured_seconds: float
    before_seconds: float
    after_seconds: float


# Schema history
# 1  2026-11  first
class Calibration(Record, frozen=True, kw_only=True):
    """What a measured session says of one machine: logarithms of its factors, and covariance."""

    schema: Literal[1] = 1
    kind: Literal["forecast-calibration"] = "forecast-calibration"
    gpu: str
    compute: float  # of the sustained arithmetic rate
    memory: float  # of the sustained bandwidth
    host: float  # of the host's cost for an operation
    covariance: tuple[tuple[float, float, float], ...]
    source: str  # what it was measured on
    observations: tuple[Observation, ...] = ()


class GpuLine(Record, frozen=True, kw_only=True):
    """One GPU of the table: dense FLOP/s by dtype with fp32 accumulation, bytes a second, watts."""

    name: str
    architecture: str
    memory_bytes: float
    peak: dict[str, float]
    bandwidth: float
    watts: float
    measurements: int  # rows that its constants were fitted on
    source: str


class GpuList(Record, frozen=True, kw_only=True):
    """Every GPU that a forecast can be made for."""

    schema: Literal[1] = 1
    gpus: tuple[GpuLine, ...]


class PipelineLine(Record, frozen=True, kw_only=True):
    """A built-in pipeline with its own defaults; sizes in pixels."""

    name: str
    denoiser: str
    width: int
    height: int
    steps: int
    dtype: str


class NetworkLine(Record, frozen=True, kw_only=True):
    """A built-in network; `parameters` as published, None where nobody published a number."""

    name: str
    role: str
    class_name: str
    parameters: float | None = None


class ModelList(Record, frozen=True, kw_only=True):
    """Every name that stands for MODEL in a forecast."""

    schema: Literal[1] = 1
    pipelines: tuple[PipelineLine, ...]
    networks: tuple[NetworkLine, ...]
