"""Findings about the answers: whose they are, whether they are whole, what they cost upstream."""

from __future__ import annotations

from halftime.base import units
from halftime.records import Finding
from halftime.verbs.gateway.evidence import Facts, GatewayEvidence, finding, quietest
from halftime.verbs.gateway.failures import THROUGH, failure_sentences, failures

EXTRA_CALLS = 1.02  # of the upstream for a request
SHRUNK, SHRUNK_BYTES = 0.9, 256  # of a request's body, at the upstream
GROWN, GROWN_BYTES = 1.1, 512
FASTER, FASTER_SECONDS = 0.02, 1e-4  # than direct, beyond its interval


def errors(evidence: GatewayEvidence) -> Finding | None:
    """Requests through the gateway that failed, by cause."""
    through = failures(evidence.loads, THROUGH)
    if not through.failed:
        return None
    facts: Facts = {"requests": through.requests, **through.causes}
    return finding("errors", "; ".join(failure_sentences(evidence.loads)) + ".", None, facts)


def stopped(evidence: GatewayEvidence) -> Finding | None:
    """The gateway stopped during the run."""
    if evidence.stopped is None:
        return None
    message = f"{evidence.stopped}: the report holds what was measured until then."
    return finding("stopped", message, None, {})


def unreached(evidence: GatewayEvidence) -> Finding | None:
    """Answers for which the upstream was not asked."""
    logs = [load.upstream for load in evidence.loads if load.upstream]
    count, answered = sum(log.unreached for log in logs), sum(log.answered for log in logs)
    if not count:
        return None
    message = (
        f"{units.count(count)} of {units.count(answered)} requests that were answered never "
        "reached the upstream: a cache, or another upstream. What it adds is then not known."
    )
    return finding("unreached", message, None, {"unreached": count, "answered": answered})


def faster_than_direct(evidence: GatewayEvidence) -> Finding | None:
    """What a proxy cannot be: something else answers, or the direct way has a handicap."""
    load = quietest(evidence.loads)
    best = load.best if load else None
    if load is None or best is None or load.direct is None:
        return None
    # An accusation of what cannot be asks for more than 95 %: twice as far away as the interval is
    # wide on that side, about one in ten thousand.
    surely = best.high + (best.high - best.p50)
    if surely >= -max(FASTER_SECONDS, FASTER * load.direct.p50):
        return None
    facts: Facts = {"added": best.p50, "high": best.high}
    message = (
        f"through is {units.seconds(-best.p50)} faster than direct (at least "
        f"{units.seconds(-best.high)} with 95 % confidence), which nothing that asks the same "
        "upstream can be: look for a cache, another upstream or model, or a direct way without "
        "kept connections."
    )
    return finding("faster-than-direct", message, None, facts)


def extra_calls(evidence: GatewayEvidence) -> Finding | None:
    """Over all loads: each call is paid for."""
    logs = [load.upstream for load in evidence.loads if load.upstream and load.upstream.answered]
    requests = sum(log.answered for log in logs)
    if not requests:
        return None
    calls = sum(log.calls_per_request * log.answered for log in logs) / requests
    if calls < EXTRA_CALLS:
        return None
    message = (
        f"{calls:.2f} calls of the upstream for each request: retries, or requests sent twice. "
        "Each of them is paid for."
    )
    return finding("extra-upstream-calls", message, None, {"calls_per_request": calls})


def answers_differ(evidence: GatewayEvidence) -> Finding | None:
    """Fields that all direct answers have and those through the gateway lack."""
    missing = {key for load in evidence.loads if load.answers for key in load.answers.missing}
    if not missing:
        return None
    names = ", ".join(sorted(missing))
    message = f"answers through the gateway lack what all direct ones have: {names}."
    return finding("answers-differ", message, None, {"missing": names})


def compressed_unasked(evidence: GatewayEvidence) -> Finding | None:
    """Answers in an encoding that the client did not ask for."""
    load = quietest(evidence.loads)
    encoding = load.answers.encoding if load and load.answers else ""
    if load is None or not encoding:
        return None
    message = (
        f"answers come {encoding}-encoded, which was not asked for: work for the gateway and for "
        "every client, and some clients cannot read them."
    )
    seconds = load.truth.response_path if load.truth else None
    return finding("compressed-unasked", message, seconds, {"encoding": encoding})


def _request_bytes(evidence: GatewayEvidence) -> tuple[float, float] | None:
    """Of a request as the client sent it and as it came to the upstream; None without its log."""
    load = quietest(evidence.loads)
    log = load.upstream if load else None
    if log is None or not log.direct_request_bytes or log.through_request_bytes is None:
        return None
    return log.direct_request_bytes, log.through_request_bytes


def requests_shrunk(evidence: GatewayEvidence) -> Finding | None:
    """The upstream gets less of a request than the client sent."""
    if (sizes := _request_bytes(evidence)) is None:
        return None
    sent, came = sizes
    if came > SHRUNK * sent or sent - came < SHRUNK_BYTES:
        return None
    message = (
        f"requests of {units.size(sent)} reach the upstream with {units.size(came)}: the gateway "
        "leaves a part of them out, or makes pictures smaller."
    )
    return finding("requests-shrunk", message, None, {"sent": sent, "arrived": came})


def requests_grown(evidence: GatewayEvidence) -> Finding | None:
    """The upstream gets more than the client sent."""
    if (sizes := _request_bytes(evidence)) is None:
        return None
    sent, came = sizes
    if came < GROWN * sent or came - sent < GROWN_BYTES:
        return None
    message = (
        f"requests of {units.size(sent)} reach the upstream with {units.size(came)}: the gateway "
        "adds to them. Where that is a prompt of its own, its tokens are paid for in each request."
    )
    return finding("requests-grown", message, None, {"sent": sent, "arrived": came})


def model_differs(evidence: GatewayEvidence) -> Finding | None:
    """The gateway asks for another model than the client did, or gives another one's answers."""
    models = {name for load in evidence.loads if load.upstream for name in load.upstream.models}
    if not models:
        return _model_named(evidence)
    names = ", ".join(sorted(models))
    message = (
        f"the upstream is asked for another model through the gateway than directly: {names}. "
        "Where it is the same one under another name, give --through-model."
    )
    return finding("model-differs", message, None, {"models": names})


def _model_named(evidence: GatewayEvidence) -> Finding | None:
    """By the answers alone: a gateway may also have its own names for models."""
    models = {name for load in evidence.loads if load.answers for name in load.answers.models}
    if not models:
        return None
    names = ", ".join(sorted(models))
    message = (
        f"answers through the gateway name another model than direct ones: {names}. Make sure that "
        "this is the gateway's name for it, and not a cheaper one that it falls back to."
    )
    return finding("model-differs", message, None, {"models": names})
