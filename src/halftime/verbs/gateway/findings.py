"""What the numbers mean, in plain words with their evidence: pure functions of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halftime.base import units
from halftime.records import Finding
from halftime.records.gateway import Load, Percentiles, Truth
from halftime.verbs.gateway.failures import THROUGH, failure_sentences, failures

NEW_CLIENT_FLOOR = 0.004  # below this a new connection is opened, but no CA bundle is read for it
CONSTANT_WAIT = 0.004  # of the first chunk; a shorter one is not told from work
FIRST_REQUEST = 0.1  # paid once, beyond what later requests take
SPREAD_OUT = 0.004  # first to last chunk; a shorter stream cannot be seen to be buffered
GAPS_LEFT = 0.1  # of the time from first to last chunk, where a stream is buffered
DRAWN_OUT = 1.25  # times as long from first to last chunk, where chunks are held
Facts = dict[str, float | int | str]


@dataclass(frozen=True)
class GatewayEvidence:
    """What findings are drawn from: the loads, and what was measured beside them."""

    loads: Sequence[Load]
    first_request: float | None = None  # latency of the first one through
    ca_bundle: float | None = None  # seconds that loading a CA bundle takes on this machine
    capacity: float | None = None
    stream: bool = False


def find(evidence: GatewayEvidence) -> tuple[Finding, ...]:
    """All findings, costliest first."""
    findings = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    return tuple(sorted(findings, key=lambda finding: -(finding.seconds or 0.0)))


def quietest(loads: Sequence[Load]) -> Load | None:
    """The load least disturbed by queueing: sequential, or else the first unsaturated one."""
    usable = [load for load in loads if load.added is not None and not load.saturated]
    return next(
        (load for load in usable if load.mode == "sequential"), usable[0] if usable else None
    )


def _new_client(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    truth = load.truth if load else None
    if load is None or truth is None or truth.requests < 8:
        return None
    if truth.connections < 0.9 * truth.requests:
        return None
    share = truth.request_path / truth.added.p50 if truth.added.p50 > 0 else 0.0
    facts: Facts = {
        "connections": truth.connections,
        "requests": truth.requests,
        "request_path": truth.request_path,
        "request_path_share": share,
    }
    if evidence.ca_bundle is not None:
        facts["ca_bundle_load_here"] = evidence.ca_bundle
    if load.cpu_per_request is not None:
        facts["cpu_per_request"] = load.cpu_per_request
    if truth.request_path < NEW_CLIENT_FLOOR:
        message = (
            f"a new connection per request ({truth.connections} for {truth.requests} requests)"
        )
        return _finding(
            "new-connection-per-request", message + "; keep them alive.", truth.request_path, facts
        )
    bundle = ""
    # named only where its time on this machine fits within what the request path takes
    if evidence.ca_bundle and 0.2 <= evidence.ca_bundle / truth.request_path <= 1.3:
        bundle = f"{units.seconds(evidence.ca_bundle)} of CA bundle loading, "
    message = (
        f"a new HTTP client per request ({bundle}{units.seconds(truth.request_path)} on the "
        f"request path, {100 * min(share, 1.0):.0f} % of the overhead; {truth.connections} "
        f"connections for {truth.requests} requests). Create the client once, at start-up."
    )
    return _finding("new-client-per-request", message, truth.request_path, facts)


def _first_chunk(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    if load is None or not evidence.stream or _arrives_together(load):
        return None
    wait, low = _chunk_wait(load, load.truth)
    if wait is None or wait < CONSTANT_WAIT or (low is not None and low < 0.75 * wait):
        return None
    facts: Facts = {
        "first_chunk_wait": wait,
        "ttft_added": load.ttft_added or 0.0,
    }
    if low is not None:
        facts["fifth_percentile"] = low
    message = (
        f"the first chunk waits a constant {units.seconds(wait)}: a timer, not work. Later "
        "chunks do not wait for it; look for a delay before the first write of a stream."
    )
    return _finding("first-chunk-waits", message, wait, facts)


def _chunk_wait(load: Load, truth: Truth | None) -> tuple[float | None, float | None]:
    """How much later than the last chunk the first one comes, and the fifth percentile of that."""
    if truth is not None:
        return (
            truth.first_chunk_path - truth.last_chunk_path,
            truth.first_chunk_low - truth.last_chunk_path,
        )
    if load.ttft_added is None or load.added is None:
        return None, None
    return load.ttft_added - load.added.p50, None


def _span(total: Percentiles | None, first: Percentiles | None) -> float | None:
    """From the first chunk to the last one."""
    return max(0.0, total.p50 - first.p50) if total and first else None


def _spans(load: Load) -> tuple[float, float] | None:
    """From the first chunk to the last one, direct and through.

    Not the median gap: a gateway that holds the first chunk alone makes most gaps vanish too, while
    the stream that follows still takes its time.
    """
    direct, through = _span(load.direct, load.ttft_direct), _span(load.through, load.ttft_through)
    return None if direct is None or through is None else (direct, through)


def _arrives_together(load: Load) -> bool:
    spans = _spans(load)
    return spans is not None and spans[0] >= SPREAD_OUT and spans[1] <= GAPS_LEFT * spans[0]


def _gap(gaps: Percentiles | None) -> float:
    return gaps.p50 if gaps else 0.0


def _buffered(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    if load is None or load.ttft_added is None:
        return None
    if not evidence.stream or not _arrives_together(load):
        return None
    apart, late = _gap(load.gap_direct), load.truth.last_chunk_path if load.truth else 0.0
    facts: Facts = {
        "gap_direct": apart,
        "gap_through": _gap(load.gap_through),
    }
    message = (
        f"the stream is buffered: chunks leave {units.seconds(apart)} apart and arrive together"
    )
    if late >= CONSTANT_WAIT:  # then a long wait before the first write looks the same
        facts["last_chunk_late"] = late
        message += f", {units.seconds(late)} after the last one left"
    return _finding("stream-buffered", message + ".", load.ttft_added, facts)


def _held(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    spans = _spans(load) if load else None
    if load is None or spans is None or not evidence.stream:
        return None
    if load.added is None or load.added.low <= 0:
        return None
    direct, through = spans
    if through - direct < CONSTANT_WAIT or through < DRAWN_OUT * direct:
        return None
    leave, come = _gap(load.gap_direct), _gap(load.gap_through)
    facts: Facts = {
        "gap_direct": leave,
        "gap_through": come,
        "span_direct": direct,
        "span_through": through,
    }
    late = load.truth.last_chunk_path if load.truth else load.added.p50
    if come >= DRAWN_OUT * leave:
        observation = (
            f"every chunk is held: they leave {units.seconds(leave)} apart and come "
            f"{units.seconds(come)} apart"
        )
    else:
        observation = (
            f"some chunks are held: first to last takes {units.seconds(through)}, and "
            f"{units.seconds(direct)} direct"
        )
    message = (
        f"{observation}, so that the last one is {units.seconds(late)} late. Look for a wait or "
        "work for each chunk."
    )
    return _finding("chunks-held", message, late, facts)


def _header(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    if load is None or load.header_reported is None or load.added is None:
        return None
    true = load.truth.added.p50 if load.truth else load.added.p50
    if true <= 0.001 or 0.8 <= load.header_reported / true <= 1.25:
        return None
    message = (
        f"the header reports {units.seconds(load.header_reported)} of a true {units.seconds(true)}."
    )
    facts: Facts = {"header": load.header_reported, "true": true}
    return _finding("header-differs", message, abs(true - load.header_reported), facts)


def _saturated(evidence: GatewayEvidence) -> Finding | None:
    saturated = [
        load
        for load in evidence.loads
        if load.saturated and not load.direct_saturated and load.rate
    ]
    if not saturated or evidence.capacity is None:
        return None
    lowest = min(saturated, key=lambda load: load.rate or 0.0)
    facts: Facts = {
        "offered": lowest.rate or 0.0,
        "completed": evidence.capacity,
    }
    message = (
        f"saturated at {evidence.capacity:.0f} requests/s: at {lowest.rate:.0f} requests/s "
        "offered its queue grows for as long as the load lasts. Add workers or replicas."
    )
    seconds = lowest.added.p50 if lowest.added else None
    return _finding("saturated", message, seconds, facts)


def _first(evidence: GatewayEvidence) -> Finding | None:
    """Counted beyond what later requests through the gateway take: those pay that as well."""
    load = quietest(evidence.loads)
    steady = load.through if load else None
    if evidence.first_request is None or steady is None or evidence.first_request <= steady.p95:
        return None
    excess = evidence.first_request - steady.p50
    if excess < FIRST_REQUEST:
        return None
    message = f"the first request paid {units.seconds(excess)}: send one before traffic comes."
    facts: Facts = {
        "first_request": evidence.first_request,
        "later_requests": steady.p50,
    }
    return _finding("first-request", message, excess, facts)


def _errors(evidence: GatewayEvidence) -> Finding | None:
    through = failures(evidence.loads, THROUGH)
    if not through.failed:
        return None
    facts: Facts = {"requests": through.requests, **through.causes}
    return _finding("errors", "; ".join(failure_sentences(evidence.loads)) + ".", None, facts)


RULES: tuple[Callable[[GatewayEvidence], Finding | None], ...] = (
    _new_client,
    _first_chunk,
    _buffered,
    _held,
    _header,
    _saturated,
    _first,
    _errors,
)


def _finding(name: str, message: str, seconds: float | None, facts: Facts) -> Finding:
    return Finding(id=name, stage="gateway", message=message, seconds=seconds, evidence=facts)
