"""What `gateway` measured: two arms side by side, their difference, its meaning. In seconds."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.finding import Finding

Mode = Literal["sequential", "closed", "constant", "poisson"]
Http2 = Literal["direct", "through", "both"]


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
    # the same 5th percentiles of the other two paths; None in older files
    request_low: float | None = None
    response_low: float | None = None


class UpstreamLog(Record, frozen=True, kw_only=True):
    """What the mock's log says of the requests that were to come through the gateway."""

    unreached: int = 0  # answered, and never seen at the upstream
    answered: int = 0  # of so many
    calls_per_request: float = 1.0  # that the gateway made for those that it did ask
    direct_at_once: int = 0  # most requests under way at the upstream at one moment
    through_at_once: int = 0
    direct_request_bytes: float | None = None  # bodies as they arrive, medians
    through_request_bytes: float | None = None
    models: tuple[str, ...] = ()  # that the gateway asked for, where direct asked for another


class AnswerFacts(Record, frozen=True, kw_only=True):
    """How the answers of the two arms differ, where they are answers."""

    missing: tuple[str, ...] = ()  # keys that all direct answers have and none through
    encoding: str = ""  # of the answers through, which was not asked for
    models: tuple[str, ...] = ()  # that answers through name, and direct ones do not
    interim: int = 0  # answers of 1xx through the gateway
    direct_closing: float = 0.0  # share of the answers after which the connection ends
    through_closing: float = 0.0
    direct_pieces: float | None = None  # in which an answer arrives, medians
    through_pieces: float | None = None
    direct_size: float | None = None  # characters of the text or picture, medians
    through_size: float | None = None


class StreamTimes(Record, frozen=True, kw_only=True):
    """Streams of one arm."""

    token_gap: Percentiles  # between tokens: from first to last, over their number less one
    longest_gap: Percentiles  # of each stream
    tokens_per_second: float  # of one stream, median
    streams: int


class Goodput(Record, frozen=True, kw_only=True):
    """Requests that were answered within all of the limits set for them."""

    direct: float | None = None  # share of the arm's requests
    through: float | None = None
    direct_rate: float | None = None  # of them a second
    through_rate: float | None = None


class JobTimes(Record, frozen=True, kw_only=True):
    """A job that is followed: medians. Its phases are known to the time between two questions."""

    submit: float  # until it is accepted
    queue: float  # until it is seen to run
    run: float  # until its result is here


class Trend(Record, frozen=True, kw_only=True):
    """What is added, from the first requests to the last ones, one at a time."""

    first: float  # median of the first quarter
    last: float
    chance: float  # that it rises so by itself


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
    upstream: UpstreamLog | None = None  # with the mock alone
    answers: AnswerFacts | None = None
    stream_direct: StreamTimes | None = None
    stream_through: StreamTimes | None = None
    goodput: Goodput | None = None
    jobs_direct: JobTimes | None = None
    jobs_through: JobTimes | None = None
    trend: Trend | None = None
    # answers of 2xx through the gateway that are not the upstream's, by what is wrong with them,
    # where no direct answer is like that
    wrong: dict[str, int] = {}
    # why it ended before its time: 'through: 429, and waiting did not help'
    cut: str = ""
    # requests take so long that a queue could not be told from them
    unclear: bool = False

    @property
    def best(self) -> Added | None:
        """What is added, as exactly as it is known: by the mock's log, else by the difference."""
        return self.truth.added if self.truth else self.added


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
    generator: Generator | None = None  # None where the user did not wait for it
    findings: tuple[Finding, ...] = ()
    # 'through: 90 % of 600 requests failed (502)', over the loads that are failing
    failing: str | None = None
    # further reasons why the gateway did not do its job, a sentence each
    broken: tuple[str, ...] = ()
    # the measurement ended early: which arm stopped answering, when, and with which error; or that
    # the user interrupted it
    stopped: str | None = None
    interrupted: bool = False
    http2: Http2 | None = None  # who was asked in HTTP/2; else it was HTTP/1.1
    held_rate: float | None = None  # highest open-loop rate that was held
    capacity: float | None = None  # requests a second that a saturated gateway completed
    # first request through, its latency over the direct arm's first
    first_request: float | None = None
    session: Share | None = None
    budget: float | None = None
    # None beside a budget: the interval holds it, so that more requests are needed to decide
    within_budget: bool | None = None
    knee: float | None = None  # requests a second: the highest rate that a search for it held
    requests: int = 0  # sent in all, with those that followed jobs
    machine: dict[str, str] = {}
    doubts: tuple[str, ...] = ()

    @property
    def did_its_job(self) -> bool:
        """The gateway answered what it was asked, all of it, from the upstream."""
        return self.failing is None and not self.broken


class PlannedLoad(Record, frozen=True, kw_only=True):
    """One of its loads."""

    name: str
    requests: int | None  # of both arms; None where that depends on how fast the answers come
    seconds: float | None = None


# Schema history
# 1  2026-11  first
class GatewayPlan(Record, frozen=True, kw_only=True):
    """What a measurement would send, before anything is sent."""

    schema: Literal[1] = 1
    halftime: str = ""
    direct: str
    through: str | None = None
    loads: tuple[PlannedLoad, ...]
    requests: int  # to the upstream, at most; of a closed loop as many as were allowed
    # of the closed loop no number is known beforehand: it sends as fast as it is answered
    bounded: bool
    request_bytes: int
    input_tokens: float | None = None
    output_tokens: float | None = None
    dollars: float | None = None
