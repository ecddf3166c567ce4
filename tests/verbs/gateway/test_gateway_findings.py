"""Findings on synthetic loads: each is made where its evidence is, and not where it is not."""

from __future__ import annotations

import msgspec
import pytest

from gateway_synthetic import level, load, plus, result, truth
from halftime.base.errors import BadInput
from halftime.records import Environment, LedgerRow, Session, Workload
from halftime.records.gateway import Load, Percentiles
from halftime.report.gateway import report_of
from halftime.report.markdown import markdown
from halftime.verbs.gateway.evidence import GatewayEvidence
from halftime.verbs.gateway.findings import find
from halftime.verbs.gateway.verdict import share, with_budget


def messages(*loads: Load, **evidence: object) -> dict[str, str]:
    return {finding.id: finding.message for finding in find(GatewayEvidence(loads, **evidence))}


def test_a_decent_gateway_gets_no_finding() -> None:
    assert messages(load(), stream=True, ca_bundle=0.014) == {}


def test_a_new_client_per_request_is_named_with_its_ca_bundle() -> None:
    words = messages(load(0.03, truth=truth(0.0285, 0.0015, connections=100)), ca_bundle=0.028)
    assert (
        "a new HTTP client per request (28.0 ms of CA bundle loading"
        in words["new-client-per-request"]
    )
    assert "95 % of the overhead" in words["new-client-per-request"]


def test_a_bundle_that_does_not_fit_is_not_blamed() -> None:
    words = messages(load(0.03, truth=truth(0.0285, 0.0015, connections=100)), ca_bundle=0.09)
    assert set(words) == {"new-connection-per-request"}


def test_cpu_tells_a_hold_from_a_new_client() -> None:
    """4 ms on the request path of connections that are new each time: a bundle is CPU, a wait is
    not."""
    path = truth(0.012, 0.001, connections=100, request_low=0.0115)
    waiting = load(0.013, truth=path, cpu_per_request=0.0004, through_requests=100)
    words = messages(waiting, ca_bundle=0.013)
    assert set(words) == {"new-connection-per-request", "request-held"}
    assert "not work, of which there is 400 µs" in words["request-held"]
    working = msgspec.structs.replace(waiting, cpu_per_request=0.0125)
    assert set(messages(working, ca_bundle=0.013)) == {"new-client-per-request"}
    # a short path holds no bundle, whatever the machine
    short = truth(0.004, 0.0, connections=100, request_low=0.0039)
    assert set(messages(load(0.004, truth=short), ca_bundle=0.029)) == {
        "new-connection-per-request",
        "request-held",
    }


def test_a_busy_machine_is_no_new_client() -> None:
    """Half of the requests waited as long as a bundle takes, the fastest did not."""
    path = truth(0.012, 0.001, connections=12, requests=12, request_low=0.0003)
    few = load(0.013, truth=path, through_requests=12)
    assert "new-client-per-request" not in messages(few, ca_bundle=0.01)
    held = msgspec.structs.replace(few, truth=truth(0.012, 0.001, connections=12, requests=12))
    assert "new-client-per-request" in messages(held, ca_bundle=0.01)


def test_new_connections_that_cost_little_are_another_finding() -> None:
    words = messages(load(truth=truth(connections=100)), ca_bundle=0.028)
    assert set(words) == {"new-connection-per-request"}


def test_kept_connections_are_not_blamed_for_a_slow_request_path() -> None:
    assert messages(load(0.03, truth=truth(0.0285, 0.0015, connections=3)), ca_bundle=0.028) == {}


def test_a_constant_wait_of_the_first_chunk() -> None:
    waiting = truth(first_chunk_path=0.026, first_chunk_low=0.0255)
    assert "a constant 25.0 ms" in messages(load(truth=waiting), stream=True)["first-chunk-waits"]
    varying = truth(first_chunk_path=0.026, first_chunk_low=0.004)
    assert "first-chunk-waits" not in messages(load(truth=varying), stream=True)
    assert messages(load(truth=waiting), stream=False) == {}


def streamed(first: float, last: float, gap: float, **fields: object) -> Load:
    """A stream of 8 chunks, 10 ms apart; its first and last come this much later through."""
    measured = load(
        last,
        direct=level(0.09),
        through=level(0.09 + last),
        ttft_added=first,
        ttft_direct=level(0.02),
        ttft_through=level(0.02 + first),
        gap_direct=level(0.01),
        gap_through=level(gap),
        truth=truth(0.0, last, first_chunk_path=first, last_chunk_path=last, first_chunk_low=first),
    )
    return msgspec.structs.replace(measured, **fields)


def with_and_without_log(measured: Load) -> tuple[dict[str, str], dict[str, str]]:
    """Messages by finding with the mock's log, and without it."""
    unlogged = msgspec.structs.replace(measured, truth=None)
    return messages(measured, stream=True), messages(unlogged, stream=True)


@pytest.mark.parametrize("last", [0.0002, 0.003])
def test_a_buffered_stream_is_that_and_nothing_else(last: float) -> None:
    for words in with_and_without_log(streamed(0.07 + last, last, gap=0.0)):
        assert set(words) == {"stream-buffered"}
        assert words["stream-buffered"].endswith("chunks leave 10.0 ms apart and arrive together.")


@pytest.mark.parametrize("wait", [0.005, 0.04, 0.06])
def test_a_first_chunk_that_waits_is_not_buffering(wait: float) -> None:
    # most gaps vanish, the stream still takes its time
    for words in with_and_without_log(streamed(wait, 0.0002, gap=0.0)):
        assert set(words) == {"first-chunk-waits"}


def test_a_wait_beyond_the_streams_end_is_reported_with_what_it_looks_like() -> None:
    words = messages(streamed(0.1, 0.03, gap=0.0), stream=True)
    assert set(words) == {"stream-buffered"}
    assert "arrive together, 30.0 ms after the last one left" in words["stream-buffered"]


def test_held_chunks_are_named_with_what_every_request_pays() -> None:
    for words in with_and_without_log(streamed(0.03, 0.207, gap=0.03)):
        assert set(words) == {"chunks-held"}
        assert (
            "they leave 10.0 ms apart and come 30.0 ms apart, so that the last one is 207 ms late"
            in words["chunks-held"]
        )
    partial = messages(streamed(0.0, 0.1, gap=0.01), stream=True)["chunks-held"]
    assert partial.startswith(
        "some chunks are held: first to last takes 170 ms, and 70.0 ms direct"
    )
    # LiteLLM, as measured
    assert "chunks-held" not in messages(streamed(0.012, 0.016, gap=0.01), stream=True)
    assert messages(streamed(0.03, 0.207, gap=0.03), stream=False) == {}


def test_the_first_request_pays_only_what_later_ones_do_not() -> None:
    slow = load(0.207)
    assert "first-request" not in messages(slow, first_request=0.24)
    words = messages(slow, first_request=0.6)
    assert words["first-request"] == "the first request paid 373 ms: send one before traffic comes."
    shaky = msgspec.structs.replace(slow, through=Percentiles(p50=0.227, p95=0.7, p99=0.9))
    assert "first-request" not in messages(shaky, first_request=0.6)  # as many later ones take


def test_a_header_that_hides_half() -> None:
    words = messages(load(0.027, header_reported=0.013, truth=truth(0.02, 0.007)))
    assert words["header-differs"] == "the header reports 13.0 ms of a true 27.0 ms."
    assert messages(load(0.027, header_reported=0.026, truth=truth(0.02, 0.007))) == {}


def test_saturation_first_request_and_errors() -> None:
    errors = {"through: 500": 3, "direct: timeout": 1}
    broken = load(
        0.5, mode="constant", rate=100.0, saturated=True, error_kinds=errors, through_requests=100
    )
    words = messages(load(through_requests=100), broken, capacity=62.4, first_request=1.004)
    assert words["saturated"].startswith("saturated at 62 requests/s")
    assert words["first-request"].startswith("the first request paid 981 ms")
    assert words["errors"] == (
        "through: 1.5 % of 200 requests failed (500); direct: 0.5 % of 200 requests failed "
        "(timeout)."
    )


def test_a_saturated_upstream_is_not_the_gateways_fault() -> None:
    both = load(0.5, mode="constant", rate=100.0, saturated=True, direct_saturated=True)
    assert "saturated" not in messages(load(), both, capacity=62.0)


def test_the_budget_is_kept_or_not() -> None:
    assert with_budget(result(load(0.019)), 0.02).within_budget
    assert with_budget(result(load(0.021)), 0.02).within_budget is False
    assert (
        with_budget(result(load(0.001), load(0.001, saturated=True)), 0.02).within_budget is False
    )
    with pytest.raises(BadInput, match="--through"):
        with_budget(result(load(), through=None), 0.02)


def test_the_sentence_about_a_picture() -> None:
    environment = Environment(
        system="",
        processor="",
        cores=1,
        memory_bytes=1,
        threads=1,
        device="cpu",
        device_name="",
        versions={},
        settings={},
    )
    row = LedgerRow(stage="encode_prompt", seconds=0.012, share=0.005)
    session = Session(wall_seconds=2.4, ledger=(row,), environment=environment, workload=Workload())
    picture_share = share(load(0.036), session)
    assert picture_share.sentence == (
        "this gateway adds 36.0 ms, 1.5 % of your 2.40 s picture, 3.00x your text encoder's 12.0 ms"
    )
    assert picture_share.of_call == pytest.approx(0.015)
    unclear = truth(added=msgspec.structs.replace(plus(0.036), low=-0.001))
    assert (
        "told from noise" in share(msgspec.structs.replace(load(), truth=unclear), session).sentence
    )


def test_the_report_says_what_the_record_holds() -> None:
    broken = load(0.5, mode="constant", rate=100.0, saturated=True)
    measured = msgspec.structs.replace(
        result(load(0.0031), broken), capacity=62.0, doubts=("too noisy",)
    )
    text = markdown(report_of(measured))
    for words in (
        "3.10 ms",
        "Saturated at 100/s constant",
        "62 requests/s",
        "Doubt: too noisy",
        "one at a time",
    ):
        assert words in text
