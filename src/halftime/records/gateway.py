"""What `gateway` measured: two arms side by side, their difference, its meaning. In seconds."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.finding import Finding

Mode = Literal["sequential", "closed", "constant", "poisson"]


class Percentiles(Record, frozen=True, kw_only=True):
    """Of one quantity over one arm's successful requests, in seconds (type 7 quantiles)."""

    p50: float
    p95: float
    p99: float


class Added(Record, frozen=True, kw_only=True):
    """Through less direct, quantile by quantile, with 95 % bootstrap intervals over pairs.

    `low` and `high` are those of p50.
    """

    p50: float
    p95: float
    p99: float
    low: float
    high: float
    p95_low: float
    p95_high: float
    p99_low: float
    p99_high: float


class Split(Record, frozen=True, kw_only=True):
    """Medians of the parts of one request. connect and tls: of fresh connections, opened aside."""

    connect: float | None = None
    tls: float | None = None
    wait: float  # last byte of the request written to first byte of the answer
    transfer: float  # first to last byte of the answer


class Distribution(Record, frozen=True, kw_only=True):
    """Latencies of one arm. `values` are the quantiles at `halftime.records.gateway.GRID`."""

    count: int
    values: tuple[float, ...]
    hdr: str = ""  # the first files of schema 1 held an HdrHistogram here; neither read nor written


GRID = (*(i / 100 for i in range(0, 100)), 0.995, 0.999, 1.0)


class Truth(Record, frozen=True, kw_only=True):
    """What the mock upstream's log says, on the client's clock, request by request.

    Overhead is (client receive - send) - (mock send - receive); `added` is through less direct.
    The request path ends when the mock holds the whole request, the response path begins with its
    last byte, the first-chunk path with its first; all three are medians, less the direct arm's.
    """

    matched: int  # requests found in the log, both arms
    floor: Percentiles  # overhead of the direct arm: sockets, kernel, this client
    overhead: Percentiles  # overhead of the through arm
    added: Added
    request_path: float
    response_path: float
    first_chunk_path: float
    last_chunk_path: float
    # 5th percentile of the through arm's first-chunk path: a constant wait shows here
    first_chunk_low: float
    connections: int  # that the mock saw from the gateway
    requests: int  # over them


class Load(Record, frozen=True, kw_only=True):
    """One load level: both arms in one run, shuffled and interleaved."""

    mode: Mode
    rate: float | None = None  # offered requests a second of one arm; open loop only
    concurrency: int | None = None  # closed loop only
    direct: Percentiles | None
    through: Percentiles | None  # None: every request failed, or only one endpoint was measured
    added: Added | None
    paired: float | None = None  # median of the paired differences
    ttft_added: float | None = None  # first body bytes: through p50 - direct p50
    ttft_direct: Percentiles | None = None
    ttft_through: Percentiles | None = None
    gap_direct: Percentiles | None = None  # between chunks, streaming only
    gap_through: Percentiles | None = None
    split_direct: Split | None = None
    split_through: Split | None = None
    requests: int  # of both arms
    through_requests: int = 0  # of them through the gateway; 0 in older files too
    errors: int = 0
    error_kinds: dict[str, int] = {}  # 'through: 429' -> count
    saturated: bool = False
    direct_saturated: bool = False
    # more requests failed than are allowed to, and than the direct arm's failures explain
    failing: bool = False
    # completed requests a second, through (the only arm where there is one)
    throughput: float | None = None
    send_lag: Percentiles | None = None  # intended to begun, open loop only
    header_reported: float | None = None  # median of the gateway's own overhead header
    truth: Truth | None = None
    cpu_per_request: float | None = None  # gateway's CPU seconds for each request through it
    background_cores: float = 0.0  # cores kept busy by other processes meanwhile
    curve_direct: Distribution | None = None
    curve_through: Distribution | None = None


class Generator(Record, frozen=True, kw_only=True):
    """What the instrument itself costs and can do, against its own mock without delay."""

    floor: Percentiles
    max_rate: float  # requests a second, closed loop
    headroom: float | None = None  # max_rate over the highest rate asked for
    send_lag_p99: float | None = None  # worst of all open-loop runs


class PayloadFacts(Record, frozen=True, kw_only=True):
    """What was sent."""

    kind: str  # chat, image-in, image-out, or the file's name
    request_bytes: int
    response_bytes: int | None = None  # median, direct arm
    stream: bool = False
    picture_bytes: int | None = None


class Share(Record, frozen=True, kw_only=True):
    """The gateway beside a profiled picture."""

    sentence: str
    of_call: float
    of_text_encoder: float | None = None


# Schema history
# 1  2026-11  first
class GatewayResult(Record, frozen=True, kw_only=True):
    """A whole measurement."""

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""
    direct: str
    through: str | None = None
    target: str = "openai"
    method: Literal["mock log", "paired difference"]
    payload: PayloadFacts
    rates: tuple[Load, ...]
    generator: Generator
    findings: tuple[Finding, ...] = ()
    # 'through: 90 % of 600 requests failed (502)', over the loads that are failing
    failing: str | None = None
    held_rate: float | None = None  # highest open-loop rate that was held
    capacity: float | None = None  # requests a second that a saturated gateway completed
    # first request through, its latency over the direct arm's first
    first_request: float | None = None
    session: Share | None = None
    budget: float | None = None
    within_budget: bool | None = None
    machine: dict[str, str] = {}
    doubts: tuple[str, ...] = ()
