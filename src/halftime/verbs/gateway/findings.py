"""What the numbers mean, in plain words with their evidence: pure functions of records."""

from __future__ import annotations

from halftime.base import units
from halftime.records import Finding
from halftime.records.gateway import Load, Truth
from halftime.verbs.gateway.answer_findings import (
    answers_differ,
    compressed_unasked,
    errors,
    extra_calls,
    faster_than_direct,
    model_differs,
    requests_grown,
    requests_shrunk,
    stopped,
    unreached,
)
from halftime.verbs.gateway.evidence import (
    CONSTANT,
    Facts,
    GatewayEvidence,
    Rule,
    closed_loop,
    finding,
    is_busy,
    quietest,
)
from halftime.verbs.gateway.stream_findings import (
    buffered,
    chunks_held,
    chunks_late,
    chunks_merged,
    first_chunk,
    stream_stalls,
)

NEW_CLIENT_FLOOR = 0.004  # of the request path; below it no CA bundle was read
# times a CA bundle's loading here that the request path takes; the upper one where CPU is not known
BUNDLE_FITS = (0.7, 2.5)
BUNDLE_CPU = 0.6  # of a CA bundle's loading here that the gateway must compute for each request
HELD = 0.001  # on one path, by the mock's log
COMPUTES, COMPUTES_SHARE = 0.001, 0.5  # seconds of CPU for a request, and their share of the rest
SOME_HELD = 0.01  # at p95, beyond the median
FIRST_REQUEST = 0.1  # paid once, beyond what later requests take
SLOWER, SLOWER_SHARE, BY_CHANCE = 0.001, 0.25, 1e-4  # from the first quarter to the last
ENOUGH = 8  # requests, to speak of each
ENOUGH_CPU = 20  # the same of CPU, which is read in ticks of 10 ms
DRIBBLES = 0.004  # from an answer's first byte to its last, beyond direct


def find(evidence: GatewayEvidence) -> tuple[Finding, ...]:
    """All findings, costliest first."""
    findings = [result for rule in RULES if (result := rule(evidence)) is not None]
    return tuple(sorted(findings, key=lambda finding: -(finding.seconds or 0.0)))


def _exact(evidence: GatewayEvidence) -> tuple[Load, Truth] | None:
    """The quietest load, where the mock's log says enough about it."""
    load = quietest(evidence.loads)
    if load is None or load.truth is None or load.truth.requests < ENOUGH:
        return None
    return load, load.truth


def _cpu(load: Load) -> float | None:
    """Seconds for each request, where there were enough of them to read it."""
    return load.cpu_per_request if load.through_requests >= ENOUGH_CPU else None


def _one_connection_each(truth: Truth) -> bool:
    return truth.connections >= 0.9 * truth.requests


def _loads_a_bundle(evidence: GatewayEvidence, load: Load, truth: Truth) -> bool:
    """A new client reads the CA bundle: as long on the request path, and nothing but CPU.

    Every request waits for it, the fastest as well; what a busy machine adds, it does not."""
    bundle, cpu = evidence.ca_bundle, _cpu(load)
    path = truth.request_path if truth.request_low is None else truth.request_low
    if not _one_connection_each(truth) or bundle is None or path < NEW_CLIENT_FLOOR:
        return False
    low, high = BUNDLE_FITS
    if cpu is not None:
        return path >= low * bundle and cpu >= BUNDLE_CPU * bundle
    return low * bundle <= path <= high * bundle


def _new_client(evidence: GatewayEvidence) -> Finding | None:
    exact = _exact(evidence)
    if exact is None or not _loads_a_bundle(evidence, *exact):
        return None
    load, truth = exact
    share = truth.request_path / truth.added.p50 if truth.added.p50 > 0 else 0.0
    facts = _connection_facts(evidence, load, truth) | {"request_path_share": share}
    message = (
        f"a new HTTP client per request ({units.seconds(evidence.ca_bundle)} of CA bundle loading, "
        f"{units.seconds(truth.request_path)} on the request path, {100 * min(share, 1.0):.0f} % "
        f"of the overhead; {truth.connections} connections for {truth.requests} requests). Create "
        "the client once, at start-up."
    )
    return finding("new-client-per-request", message, truth.request_path, facts)


def _connection_facts(evidence: GatewayEvidence, load: Load, truth: Truth) -> Facts:
    facts: Facts = {
        "connections": truth.connections,
        "requests": truth.requests,
        "request_path": truth.request_path,
    }
    if evidence.ca_bundle is not None:
        facts["ca_bundle_load_here"] = evidence.ca_bundle
    if load.cpu_per_request is not None:
        facts["cpu_per_request"] = load.cpu_per_request
    return facts


def _new_connection(evidence: GatewayEvidence) -> Finding | None:
    """What else is on the request path is another finding."""
    exact = _exact(evidence)
    if exact is None or not _one_connection_each(exact[1]):
        return None
    load, truth = exact
    if _loads_a_bundle(evidence, load, truth):
        return None
    connect = load.split_direct.connect if load.split_direct else None
    message = (
        f"a new connection per request ({truth.connections} for {truth.requests} requests); keep "
        "them alive."
    )
    seconds = truth.request_path if connect is None else min(connect, truth.request_path)
    facts = _connection_facts(evidence, load, truth)
    return finding("new-connection-per-request", message, max(0.0, seconds), facts)


def _request_held(evidence: GatewayEvidence) -> Finding | None:
    exact = _exact(evidence)
    if exact is None or _loads_a_bundle(evidence, *exact):
        return None
    load, truth = exact
    return _on_a_path(
        "request-held",
        "each request is held {} before the upstream has it",
        load,
        truth.request_path,
        truth.request_low,
    )


def _answer_held(evidence: GatewayEvidence) -> Finding | None:
    exact = _exact(evidence)
    if exact is None or evidence.stream or _dribbles(evidence):
        return None
    load, truth = exact
    return _on_a_path(
        "answer-held",
        "each answer is held {} after the upstream gave it",
        load,
        truth.response_path,
        truth.response_low,
    )


def _on_a_path(
    name: str, observation: str, load: Load, wait: float, low: float | None
) -> Finding | None:
    """A wait of nearly all requests, which CPU does not explain."""
    cpu = _cpu(load)
    if wait < HELD or low is None or low < CONSTANT * wait:
        return None
    if cpu is not None and cpu >= COMPUTES_SHARE * wait:
        return None
    facts: Facts = {"wait": wait, "fifth_percentile": low}
    cause = "a timer, a lock, or a question asked elsewhere"
    if cpu is None:
        cause += ", or work that is always the same"
    else:
        facts["cpu_per_request"] = cpu
        cause += f", and not work, of which there is {units.seconds(cpu)}"
    message = f"{observation.format(units.seconds(wait))}, hardly one less: {cause}."
    return finding(name, message, wait, facts)


def _computes(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    exact = _exact(evidence)
    if load is None or load.best is None or (exact and _loads_a_bundle(evidence, *exact)):
        return None
    cpu, added = _cpu(load), load.best.p50
    # work that does not add to a request is nobody's wait: a stream's chunks are far apart
    if cpu is None or min(cpu, added) < COMPUTES or cpu < COMPUTES_SHARE * added:
        return None
    message = (
        f"the gateway computes {units.seconds(cpu)} for each request, of {units.seconds(added)} "
        f"that it adds: one core of it completes at most {1 / cpu:,.0f} requests/s."
    )
    return finding("computes", message, min(cpu, max(added, 0.0)), {"cpu_per_request": cpu})


def _some_held(evidence: GatewayEvidence) -> Finding | None:
    exact = _exact(evidence)
    if exact is None or exact[1].requests < 40 or _slows_down(evidence):
        return None
    truth = exact[1]
    late, usual = (level.p95 - level.p50 for level in (truth.overhead, truth.floor))
    if late < SOME_HELD or late < 5 * usual:
        return None
    message = (
        f"one request in twenty or more waits {units.seconds(late)} longer than most: look for "
        "pauses, lock contention, or work of other requests in its event loop."
    )
    facts: Facts = {"p50": truth.overhead.p50, "p95": truth.overhead.p95}
    return finding("some-held", message, late, facts)


def _slows_down(evidence: GatewayEvidence) -> Finding | None:
    load = next((load for load in evidence.loads if load.mode == "sequential"), None)
    trend = load.trend if load else None
    if trend is None or trend.chance > BY_CHANCE:
        return None
    slower = trend.last - trend.first
    if slower < max(SLOWER, SLOWER_SHARE * abs(trend.first)):
        return None
    message = (
        f"it gets slower within the run: what a request pays grows by {units.seconds(slower)} from "
        "the first quarter of the requests to the last. Look for a list or a table that grows with "
        "every request."
    )
    facts: Facts = {"first": trend.first, "last": trend.last, "chance": trend.chance}
    return finding("slows-down", message, slower, facts)


def _serialises(evidence: GatewayEvidence) -> Finding | None:
    """Fewer requests at once at the upstream than are sent at once."""
    load, alone = closed_loop(evidence.loads), quietest(evidence.loads)
    if load is None or alone is None or is_busy(load) or not load.concurrency:
        return None
    log = load.upstream
    if log is not None:
        direct, through = log.direct_at_once, float(log.through_at_once)
        observation = f"at most {through:.0f} of them are under way at the upstream"
    else:
        direct, through = load.concurrency, _at_once(load, alone)
        observation = f"no more than {max(1.0, through):.0f} are answered in the time of one"
    if direct < 4 or not 0 < through <= (0.5 if log is not None else 0.25) * direct:
        return None
    message = (
        f"it serialises: {load.concurrency} requests are sent at once, and {observation} "
        f"({direct} directly). Look for a lock, a pool of connections, or a limit on concurrency."
    )
    seconds = load.best.p50 if load.best else None
    return finding("serialises", message, seconds, {"direct": direct, "through": through})


def _at_once(load: Load, alone: Load) -> float:
    """Requests that are answered in the time of one (Little 1961)."""
    if load.throughput is None or alone.through is None:
        return 0.0
    if load.direct and alone.direct and load.direct.p50 > 1.5 * alone.direct.p50:
        return 0.0  # the upstream itself takes longer for many than for one
    return load.throughput * alone.through.p50


def _closes(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    answers = load.answers if load else None
    if answers is None or answers.through_closing < 0.9 or answers.direct_closing > 0.1:
        return None
    message = (
        "the gateway closes its client's connection after each answer, so that each request pays "
        f"{units.seconds(evidence.connect)} for a new one; let it keep them alive."
    )
    return finding("closes-connections", message, evidence.connect, {"connect": evidence.connect})


def _dribbles(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    answers = load.answers if load else None
    if load is None or answers is None or evidence.stream:
        return None
    if not load.split_direct or not load.split_through:
        return None
    pieces, usual = answers.through_pieces or 0.0, answers.direct_pieces or 0.0
    late = load.split_through.transfer - load.split_direct.transfer
    if late < DRIBBLES or pieces < 4 or pieces <= 3 * usual:
        return None
    message = (
        f"answers come in {pieces:.0f} pieces ({usual:.0f} directly), the last "
        f"{units.seconds(load.split_through.transfer)} after the first: write them at once."
    )
    return finding("answer-dribbles", message, late, {"pieces": pieces, "pieces_direct": usual})


def _header(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    if load is None or load.header_reported is None or load.best is None:
        return None
    true = load.best.p50
    if true <= 0.001 or 0.8 <= load.header_reported / true <= 1.25:
        return None
    message = (
        f"the header reports {units.seconds(load.header_reported)} of a true {units.seconds(true)}."
    )
    facts: Facts = {"header": load.header_reported, "true": true}
    return finding("header-differs", message, abs(true - load.header_reported), facts)


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
    seconds = lowest.best.p50 if lowest.best else None
    return finding("saturated", message, seconds, facts)


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
    return finding("first-request", message, excess, facts)


RULES: tuple[Rule, ...] = (
    _new_client,
    _new_connection,
    _request_held,
    _answer_held,
    _computes,
    _some_held,
    _slows_down,
    _serialises,
    _closes,
    _dribbles,
    first_chunk,
    buffered,
    chunks_held,
    chunks_late,
    chunks_merged,
    stream_stalls,
    _header,
    _saturated,
    _first,
    compressed_unasked,
    extra_calls,
    answers_differ,
    requests_shrunk,
    requests_grown,
    model_differs,
    faster_than_direct,
    unreached,
    stopped,
    errors,
)
