"""The causes that a gateway's times and answers have: named where they are, and not elsewhere."""

from __future__ import annotations

import msgspec
import pytest

from gateway_synthetic import level, load, plus, result, truth
from halftime.cli.gateway import _exit_code
from halftime.records.gateway import (
    AnswerFacts,
    Load,
    Percentiles,
    Split,
    StreamTimes,
    Trend,
    UpstreamLog,
)
from halftime.report.gateway import report_of
from halftime.report.markdown import markdown
from halftime.verbs.gateway.compare import check_answers, shorter_sentence, upstream_log
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.evidence import GatewayEvidence
from halftime.verbs.gateway.failures import broken_sentences
from halftime.verbs.gateway.findings import find
from halftime.verbs.gateway.mock import LogEntry
from halftime.verbs.gateway.reply import Reply
from halftime.verbs.gateway.verdict import with_budget


def messages(*loads: Load, **evidence: object) -> dict[str, str]:
    return {finding.id: finding.message for finding in find(GatewayEvidence(loads, **evidence))}


def seconds(name: str, *loads: Load, **evidence: object) -> float | None:
    return next(f.seconds for f in find(GatewayEvidence(loads, **evidence)) if f.id == name)


# Which figure is judged


def noisy(low: float, high: float, exact: Load) -> Load:
    """The difference of an upstream that varies, beside the mock's log."""
    middle = (low + high) / 2
    difference = msgspec.structs.replace(plus(middle), low=low, high=high)
    return msgspec.structs.replace(exact, added=difference)


def test_the_exact_figure_is_judged_where_there_is_one() -> None:
    """0.3 ms, known exactly, beside differences of 2.10 and -1.48 ms."""
    exact = load(0.0003)
    for low, high in ((0.0019, 0.0023), (-0.0020, -0.0010)):
        judged = with_budget(result(noisy(low, high, exact)), 0.001)
        assert judged.within_budget is True
        text = markdown(report_of(judged))
        assert "adds 300 µs at p50" in text
        assert "kept" in text
    assert "faster-than-direct" not in messages(noisy(-0.002, -0.001, exact))


def test_a_budget_within_the_interval_is_undecided() -> None:
    unsure = msgspec.structs.replace(load(0.001), truth=None)
    unsure = noisy(0.0005, 0.0015, unsure)
    judged = with_budget(result(unsure), 0.001)
    assert judged.within_budget is None
    assert _exit_code(judged) == 3
    assert "not decided" in markdown(report_of(judged))
    assert _exit_code(with_budget(result(unsure), 0.002)) == 0
    assert _exit_code(with_budget(result(unsure), 0.0004)) == 1
    assert _exit_code(result(unsure)) == 0  # no budget, no verdict on it


def test_a_gateway_that_did_not_do_its_job_keeps_no_budget() -> None:
    broken = msgspec.structs.replace(
        result(load(0.0003)), broken=("5 of 60 requests that were answered never reached …",)
    )
    assert _exit_code(broken) == 1
    judged = with_budget(broken, 1.0)
    assert judged.within_budget is False
    text = markdown(report_of(judged))
    assert text.index("never reached") < text.index("The gateway adds")
    assert "not kept, since the gateway did not do its job" in text


def test_less_than_nothing_is_said() -> None:
    faster = msgspec.structs.replace(load(0.0), added=plus(-0.027), truth=None)
    words = messages(faster)
    assert words["faster-than-direct"].startswith("through is 27.0 ms faster than direct")
    said = msgspec.structs.replace(result(faster), findings=find(GatewayEvidence((faster,))))
    assert "as no proxy can" in markdown(report_of(said))
    assert "noise" not in words["faster-than-direct"]
    for added in (-0.00005, -0.0003):  # below 0.1 ms; below 2 % of a request of 20 ms
        little = msgspec.structs.replace(faster, added=plus(added))
        assert "faster-than-direct" not in messages(little)
    # -10 to -3 ms with 95 % confidence: one honest gateway in forty would look so
    assert "faster-than-direct" not in messages(noisy(-0.010, -0.003, faster))


# Where the time goes


def test_held_requests_and_answers_are_told_apart() -> None:
    before = load(0.006, truth=truth(0.005, 0.0005, request_low=0.0049, response_low=0.0005))
    words = messages(before)
    assert set(words) == {"request-held"}
    assert "or work that is always the same" in words["request-held"]  # its CPU is not known
    assert seconds("request-held", before) == 0.005
    after = load(0.006, truth=truth(0.0005, 0.0055, request_low=0.0005, response_low=0.0054))
    assert set(messages(after)) == {"answer-held"}
    varying = load(0.006, truth=truth(0.005, 0.001, request_low=0.0005, response_low=0.0))
    assert messages(varying) == {}


def test_a_gateway_that_computes_is_not_one_that_waits() -> None:
    path = truth(0.010, 0.003, request_low=0.009, response_low=0.0005)
    working = load(0.013, truth=path, cpu_per_request=0.0115, through_requests=100)
    words = messages(working)
    assert set(words) == {"computes"}
    assert "at most 87 requests/s" in words["computes"]
    waiting = msgspec.structs.replace(working, cpu_per_request=0.0005)
    assert set(messages(waiting)) == {"request-held"}
    few = msgspec.structs.replace(working, through_requests=10)  # ticks of 10 ms
    assert "computes" not in messages(few)


def test_one_request_in_ten_that_waits() -> None:
    late = Percentiles(p50=0.003, p95=0.053, p99=0.054)
    held = load(truth=truth(overhead=late))
    words = messages(held)
    assert words["some-held"].startswith("one request in twenty or more waits 50.0 ms longer")
    shaky = load(truth=truth(overhead=late, floor=Percentiles(p50=2e-4, p95=0.02, p99=0.03)))
    assert "some-held" not in messages(shaky)  # direct has such a tail as well


def test_a_gateway_that_slows_down_within_the_run() -> None:
    slower = load(trend=Trend(first=0.001, last=0.006, chance=1e-9))
    assert "grows by 5.00 ms" in messages(slower)["slows-down"]
    for trend in (
        Trend(first=0.001, last=0.006, chance=0.01),  # by chance
        Trend(first=0.001, last=0.0015, chance=1e-9),  # too little to matter
        Trend(first=0.020, last=0.022, chance=1e-9),  # next to what it takes anyway
    ):
        assert "slows-down" not in messages(load(trend=trend))


def crowd(direct: int, through: int, **fields: object) -> Load:
    log = UpstreamLog(answered=100, direct_at_once=direct, through_at_once=through)
    return load(mode="closed", concurrency=8, upstream=log, throughput=300.0, **fields)


def test_serialising_needs_no_rate() -> None:
    words = messages(load(), crowd(8, 1))
    assert "at most 1 of them are under way at the upstream (8 directly)" in words["serialises"]
    assert "serialises" in messages(load(), crowd(8, 4))
    for healthy in (crowd(8, 8), crowd(8, 5), crowd(3, 1)):
        assert "serialises" not in messages(load(), healthy)
    busy = crowd(8, 1, cpu_per_request=0.003)  # 0.9 of a core: it is its work
    assert "serialises" not in messages(load(), busy)


def test_serialising_is_seen_without_the_log() -> None:
    alone = load(0.003, truth=None)  # 23 ms each through
    one = load(mode="closed", concurrency=8, truth=None, throughput=1 / 0.023)
    assert "no more than 1 are answered in the time of one" in messages(alone, one)["serialises"]
    eight = msgspec.structs.replace(one, throughput=7 / 0.023)
    assert "serialises" not in messages(alone, eight)
    slow = msgspec.structs.replace(one, direct=level(0.16))  # so does the upstream
    assert "serialises" not in messages(alone, slow)


def facts(**fields: object) -> AnswerFacts:
    return AnswerFacts(direct_pieces=1.0, through_pieces=1.0, **fields)


def test_connections_that_the_gateway_closes() -> None:
    closing = load(answers=facts(through_closing=1.0))
    assert seconds("closes-connections", closing, connect=0.0004) == 0.0004
    both = load(answers=facts(through_closing=1.0, direct_closing=1.0))
    assert messages(both) == {}


def test_answers_that_dribble() -> None:
    split = Split(wait=0.02, transfer=0.0)
    slow = Split(wait=0.02, transfer=0.026)
    pieces = AnswerFacts(direct_pieces=1.0, through_pieces=14.0)
    dribbling = load(answers=pieces, split_direct=split, split_through=slow)
    assert "come in 14 pieces (1 directly)" in messages(dribbling)["answer-dribbles"]
    assert messages(load(answers=facts(), split_direct=split, split_through=slow)) == {}


# Streams


def streamed(**fields: object) -> Load:
    """8 chunks, 10 ms apart."""
    base = load(
        0.003,
        direct=level(0.09),
        through=level(0.093),
        ttft_added=0.003,
        ttft_direct=level(0.02),
        ttft_through=level(0.023),
        gap_direct=level(0.01),
        gap_through=level(0.01),
        truth=truth(
            0.0, 0.003, first_chunk_path=0.003, last_chunk_path=0.003, first_chunk_low=0.0029
        ),
    )
    return msgspec.structs.replace(base, **fields)


def test_chunks_that_are_all_late_by_the_same() -> None:
    words = messages(streamed(), stream=True)
    assert set(words) == {"chunks-late"}
    assert "every chunk comes 3.00 ms late" in words["chunks-late"]
    assert messages(streamed(), stream=False) == {}
    little = truth(0.0, 0.001, first_chunk_path=0.001, last_chunk_path=0.001, first_chunk_low=0.001)
    assert messages(streamed(truth=little), stream=True) == {}


def test_chunks_that_come_together() -> None:
    waits = truth(
        0.0, 0.0002, first_chunk_path=0.03, last_chunk_path=0.0002, first_chunk_low=0.0299
    )
    merged = AnswerFacts(direct_pieces=8.0, through_pieces=2.0)
    groups = {"stream_direct": gaps(0.011, 0.012), "stream_through": gaps(0.041, 0.042)}
    words = messages(streamed(truth=waits, answers=merged, **groups), stream=True)
    assert set(words) == {"chunks-merged"}  # the first group waits as all do
    assert "8 come directly, 2 through" in words["chunks-merged"]
    # where the first chunk waits so long that six come with it, the last ones keep their pace
    alone = groups | {"stream_through": gaps(0.011, 0.012)}
    words = messages(streamed(truth=waits, answers=merged, **alone), stream=True)
    assert set(words) == {"first-chunk-waits"}
    whole = AnswerFacts(direct_pieces=8.0, through_pieces=7.0)
    quick = truth(0.0, 0.0002)
    assert messages(streamed(truth=quick, answers=whole, **groups), stream=True) == {}


def gaps(p50: float, p95: float) -> StreamTimes:
    return StreamTimes(
        token_gap=level(0.01),
        longest_gap=Percentiles(p50=p50, p95=p95, p99=p95),
        tokens_per_second=90.0,
        streams=40,
    )


def test_streams_that_stall_now_and_then() -> None:
    quick, usual = truth(0.0, 0.0002), gaps(0.011, 0.013)
    stalling = streamed(truth=quick, stream_direct=usual, stream_through=gaps(0.012, 0.2))
    assert "a gap lasts 200 ms, and 13.0 ms at most directly" in messages(stalling)["stream-stalls"]
    for through in (gaps(0.012, 0.02), gaps(0.2, 0.2)):  # noise; and in every stream
        same = streamed(truth=quick, stream_direct=usual, stream_through=through)
        assert "stream-stalls" not in messages(same, stream=True)


# The answers


def test_what_the_log_and_the_answers_say() -> None:
    log = UpstreamLog(
        answered=100,
        unreached=12,
        calls_per_request=1.5,
        direct_request_bytes=87_000.0,
        through_request_bytes=20_000.0,
        models=("tiny",),
    )
    odd = load(upstream=log, answers=facts(missing=("usage",), encoding="gzip"))
    words = messages(odd, stopped="through stopped answering: timeout (…)")
    assert "12 of 100 requests that were answered never reached" in words["unreached"]
    assert words["extra-upstream-calls"].startswith("1.50 calls of the upstream")
    assert "85.0 KiB reach the upstream with 19.5 KiB" in words["requests-shrunk"]
    assert "directly: tiny" in words["model-differs"]
    assert "lack what all direct ones have: usage" in words["answers-differ"]
    assert "gzip-encoded" in words["compressed-unasked"]
    assert "stopped answering" in words["stopped"]
    fine = UpstreamLog(answered=100, direct_request_bytes=300.0, through_request_bytes=250.0)
    assert messages(load(upstream=fine, answers=facts())) == {}


def test_requests_that_lost_their_id_on_the_way_did_reach_the_upstream() -> None:
    answered = [Sample(f"{i:08x}", "through", 0.0, status=200) for i in range(4)]
    nameless = [LogEntry("", 1, 0.0, 0.0, 0.1, 200)] * 3
    assert upstream_log([], answered, {"": nameless}).unreached == 1
    assert upstream_log([], answered, {}).unreached == 4


def test_reasons_of_a_no() -> None:
    log = UpstreamLog(answered=60, unreached=7)
    wrong = load(upstream=log, wrong={"the answer to another request": 1}, through_requests=200)
    assert list(broken_sentences([wrong], "through stopped answering: timeout")) == [
        "through stopped answering: timeout",
        "7 of 60 requests that were answered never reached the upstream",
        "1 of 200 answers through the gateway are not the upstream's (1 x the answer to another "
        "request)",
    ]
    assert list(broken_sentences([load()])) == []


@pytest.mark.parametrize(
    ("size", "count", "shorter"), [(300, 50, True), (600, 50, False), (300, 5, False)]
)
def test_texts_of_a_foreign_upstream_that_are_cut(size: int, count: int, shorter: bool) -> None:
    answers = AnswerFacts(direct_size=1000.0, through_size=float(size))
    assert bool(shorter_sentence(answers, count)) is shorter


def test_work_that_adds_hardly_anything_is_no_finding() -> None:
    """As the work on a stream's chunks, which are far apart."""
    quick = load(0.0004, cpu_per_request=0.0015, through_requests=100)
    slow = load(0.003, cpu_per_request=0.0025, through_requests=100)
    assert "computes" not in messages(quick)
    assert "computes" in messages(slow)


# Another upstream than the mock, whose truth nobody knows


def answered(number: int, arm: str, identity: str, digest: int, mark: str = "") -> Sample:
    sample = Sample(f"{number:08x}", arm, 0.0, status=200)
    sample.reply = Reply(identity=identity, digest=digest, size=40, mark=mark)
    return sample


def checked(*through: Sample, alike: bool = False) -> list[str]:
    direct = [answered(n, "direct", f"d{n}", 0 if alike else n) for n in range(12)]
    check_answers(direct, through, None)
    return [sample.error for sample in through]


def test_an_answer_that_was_given_before_is_a_caches() -> None:
    own = [answered(100 + n, "through", f"t{n}", 500 + n) for n in range(3)]
    again = answered(200, "through", "t1", 501)
    assert checked(*own, again) == ["", "", "", "an answer that was given before"]


@pytest.mark.parametrize("digests", [(7, 8, 9), (7, 7, 9)])
def test_a_gateway_may_have_one_id_for_all_and_an_upstream_one_text(
    digests: tuple[int, ...],
) -> None:
    """Neither alone shows that an answer was given before."""
    constant = [answered(100 + n, "through", "gw", digest) for n, digest in enumerate((7, 8, 9))]
    assert checked(*constant) == [""] * 3
    texts = [answered(100 + n, "through", f"t{n}", digest) for n, digest in enumerate(digests)]
    assert checked(*texts) == [""] * 3
    both = [answered(100 + n, "through", "gw", 7) for n in range(3)]
    assert checked(*both, alike=True) == [""] * 3  # direct answers are alike, too


def test_an_answer_with_another_requests_mark_is_that_ones() -> None:
    assert checked(
        answered(100, "through", "a", 1, f"{100:08x}"),  # an upstream that repeats its prompt
        answered(101, "through", "b", 2, f"{100:08x}"),
        answered(102, "through", "c", 3, "deadbeef"),  # nobody's here: it made that up
        answered(103, "through", "d", 4),
    ) == ["", "the answer to another request", "", ""]
