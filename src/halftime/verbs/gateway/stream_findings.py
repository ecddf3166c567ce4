"""Findings about streamed answers: chunks that wait, come together, or stall."""

from __future__ import annotations

from halftime.base import units
from halftime.records import Finding
from halftime.records.gateway import Load, Percentiles, Truth
from halftime.verbs.gateway.evidence import CONSTANT, Facts, GatewayEvidence, finding, quietest

CONSTANT_WAIT = 0.004  # of the first chunk; a shorter one is not told from work
LATE = 0.002  # of all chunks alike, by the mock's log
SPREAD_OUT = 0.004  # first to last chunk; a shorter stream cannot be seen to be buffered
GAPS_LEFT = 0.1  # of the time from first to last chunk, where a stream is buffered
DRAWN_OUT = 1.25  # times as long from first to last chunk, where chunks are held
STALLED = 0.02  # in one gap of a stream, beyond what the longest gap is directly
MERGED = 0.6  # of the pieces that arrive directly
APART = 1.8  # times the longest gap between pieces, where each holds several chunks


def first_chunk(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    if load is None or not evidence.stream or _arrives_together(load) or _comes_in_groups(load):
        return None
    wait, low = _chunk_wait(load, load.truth)
    if wait is None or wait < CONSTANT_WAIT or (low is not None and low < CONSTANT * wait):
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
    return finding("first-chunk-waits", message, wait, facts)


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


def _comes_in_groups(load: Load) -> bool:
    """Fewer pieces, further apart: where the first chunk alone waits, later ones keep their
    pace."""
    answers, direct, through = load.answers, load.stream_direct, load.stream_through
    if answers is None or direct is None or through is None or _arrives_together(load):
        return False
    leave, come = answers.direct_pieces or 0.0, answers.through_pieces or 0.0
    spans = _spans(load)
    if spans is None or spans[0] < SPREAD_OUT or leave < 4 or come > MERGED * leave:
        return False
    return through.longest_gap.p50 >= APART * direct.longest_gap.p50


def _gap(gaps: Percentiles | None) -> float:
    return gaps.p50 if gaps else 0.0


def buffered(evidence: GatewayEvidence) -> Finding | None:
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
    return finding("stream-buffered", message + ".", load.ttft_added, facts)


def chunks_held(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    spans = _spans(load) if load else None
    if load is None or spans is None or not evidence.stream:
        return None
    if load.best is None or load.best.low <= 0:
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
    late = load.truth.last_chunk_path if load.truth else load.best.p50
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
    return finding("chunks-held", message, late, facts)


def chunks_late(evidence: GatewayEvidence) -> Finding | None:
    """All of them alike, so that the stream keeps its pace."""
    load = quietest(evidence.loads)
    truth = load.truth if load else None
    if load is None or truth is None or not evidence.stream or _arrives_together(load):
        return None
    first, last = truth.first_chunk_path, truth.last_chunk_path
    if min(first, last) < LATE or truth.first_chunk_low < CONSTANT * first:
        return None
    if not CONSTANT <= first / last <= 1 / CONSTANT:
        return None
    facts: Facts = {"first_chunk": first, "last_chunk": last}
    message = (
        f"every chunk comes {units.seconds(last)} late, the first as the last: a wait that each "
        "one goes through, and that none of them adds to the next."
    )
    return finding("chunks-late", message, last, facts)


def chunks_merged(evidence: GatewayEvidence) -> Finding | None:
    load = quietest(evidence.loads)
    answers = load.answers if load else None
    if load is None or answers is None or not evidence.stream or not _comes_in_groups(load):
        return None
    leave, come = answers.direct_pieces or 0.0, answers.through_pieces or 0.0
    facts: Facts = {"pieces_direct": leave, "pieces_through": come}
    message = (
        f"chunks are passed on together: {leave:.0f} come directly, {come:.0f} through. Look for a "
        "buffer that is flushed by its size or by a timer."
    )
    return finding("chunks-merged", message, load.ttft_added, facts)


def stream_stalls(evidence: GatewayEvidence) -> Finding | None:
    """Now and then: a wait in every stream is another finding."""
    load = quietest(evidence.loads)
    if load is None or not load.stream_direct or not load.stream_through:
        return None
    direct, through = load.stream_direct.longest_gap, load.stream_through.longest_gap
    stall = through.p95 - direct.p95
    if stall < STALLED or through.p95 < 5 * direct.p95 or through.p50 > 0.5 * through.p95:
        return None
    facts: Facts = {"longest_gap_direct": direct.p95, "longest_gap_through": through.p95}
    message = (
        f"some streams stall: in one of twenty or more a gap lasts {units.seconds(through.p95)}, "
        f"and {units.seconds(direct.p95)} at most directly. Look for pauses of the gateway, such "
        "as garbage collection, or for work of other requests in its event loop."
    )
    return finding("stream-stalls", message, stall, facts)
