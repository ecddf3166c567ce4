"""Every planted proxy: what it must be called, and whether the verdict may be yes.

Those whose fault is a time are measured by benchmarks.gateway.planted, and judged here on data
(test_gateway_findings.py): a busy machine adds times of its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway_servers import mock_and_proxy, shorten_calibration
from halftime.cli.gateway import _exit_code
from halftime.testing import FAULTS, proxied
from halftime.verbs.gateway import brake, run
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway

WRONG = [name for name, fault in FAULTS.items() if not fault.does_its_job]
# odd, and told without a clock
ODD = [
    "new-connections",
    "closes-connections",
    "compresses",
    "doubles-requests",
    "doubles-some-requests",
    "strips-usage",
    "shrinks-pictures",
    "drops-finish-reasons",
    "names-another-model",
    "adds-prompts",
]
FINE = [
    "none",
    "sends-early-hints",
    "sends-processing",
    "reformats",
    "announces-upgrades",
    "ends-lines-with-lf",
    "sends-trailers",
    "says-done-twice",
    "comments-streams",
    "begins-at-once",
    "cuts-chunks-anew",
]
SHORT = GatewaySettings("", requests=12, concurrency=0, timeout=20.0)
# where the defaults would wait: for time-outs, or for enough requests
OWN = {
    "hangs": {"share": 0.6, "requests": 2, "timeout": 1.0},
    "announces-more": {"share": 0.6, "requests": 2, "timeout": 1.0},
    "dies": {"requests": 40},
}


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)
    # longer than any path here, however busy the machine: no fault of these loads a bundle
    monkeypatch.setattr(run, "ca_bundle_seconds", lambda: 3600.0)
    monkeypatch.setattr(brake, "PATIENCE", 0.0)


def measured(name: str, **settings: object) -> run.GatewayResult:
    fault, own = FAULTS[name], dict(OWN.get(name, {})) | settings
    payload = (
        Payload("image-in", 1_000_000 if fault.early else 5_000) if fault.picture else Payload()
    )
    behaviour = Behaviour(delay=0.0, gap=0.0, chunks=4)
    with mock_and_proxy(behaviour, name, share=own.pop("share", None)) as (direct, through):
        return gateway(
            replace(
                SHORT,
                direct=direct,
                through=through,
                payload=replace(payload, stream=fault.stream),
                **own,
            )
        )


def test_there_are_enough_kinds() -> None:
    assert len(FAULTS) >= 75
    assert len(WRONG) >= 25
    assert all(fault.finding for fault in FAULTS.values() if fault.refusal)


@pytest.mark.parametrize("name", WRONG)
def test_a_gateway_that_does_not_do_its_job_is_refused_with_its_reason(name: str) -> None:
    fault, result = FAULTS[name], measured(name)
    assert _exit_code(result) == 1
    reasons = " ".join([result.failing or "", *result.broken])
    assert fault.refusal in reasons
    assert fault.finding in [finding.id for finding in result.findings]
    # nor would a budget that any time keeps
    assert result.did_its_job is False


@pytest.mark.parametrize("name", ODD)
def test_an_odd_gateway_is_named_and_passes(name: str) -> None:
    result = measured(name)
    assert _exit_code(result) == 0
    assert FAULTS[name].finding in [finding.id for finding in result.findings]


@pytest.mark.parametrize("name", FINE)
def test_nothing_is_said_of_a_gateway_without_a_fault(name: str) -> None:
    result = measured(name)
    assert _exit_code(result) == 0
    assert result.broken == ()
    assert {finding.id for finding in result.findings} <= TIMES
    assert result.rates[0].truth.matched == 24
    assert result.rates[0].upstream.calls_per_request == 1
    interim = {"sends-early-hints": 12, "sends-processing": 24}.get(name, 0)
    assert result.rates[0].answers.interim == interim


# what a busy machine may add to any measurement
TIMES = {"computes", "some-held", "first-request", "request-held", "answer-held", "slows-down"}


@pytest.mark.parametrize("name", ["serialises", "limits-concurrency"])
def test_a_gateway_that_serialises_is_named_without_a_rate(name: str) -> None:
    fault = FAULTS[name]
    with mock_and_proxy(Behaviour(delay=0.1), name) as (direct, through):
        settings = replace(SHORT, direct=direct, through=through, requests=1)
        result = gateway(replace(settings, concurrency=4, seconds=0.3))
    load = result.rates[-1]
    assert load.upstream.direct_at_once == 4
    assert load.upstream.through_at_once == fault.at_once
    if load.cpu_per_request * load.throughput < 0.7:  # or this very process was the limit
        assert "serialises" in [finding.id for finding in result.findings]


def test_a_gateway_that_dies_leaves_a_report_with_the_moment() -> None:
    result = measured("dies", rates=(20.0,))
    assert [load.mode for load in result.rates] == ["sequential"]  # nothing is begun after it
    load = result.rates[0]
    assert load.truth.requests == 11  # four were sent before
    assert "connect: ConnectionRefusedError" in result.stopped
    assert "into the measurement, after" in result.stopped
    assert load.requests == 2 * (11 + brake.LOST_IN_A_ROW)


def test_an_upstream_that_dies_is_not_the_gateways_fault() -> None:
    """The direct way dies: the exit code says that the measurement failed."""
    with (
        mock_and_proxy(Behaviour(delay=0.0)) as (upstream, _),
        proxied("dies", upstream) as direct,
        proxied("none", upstream) as through,
    ):
        result = gateway(replace(SHORT, direct=direct, through=through, requests=60))
    assert result.stopped.startswith("direct stopped answering")
    assert result.did_its_job
    assert _exit_code(result) == 2


def test_an_unknown_fault_is_refused() -> None:
    with (
        pytest.raises(Exception, match="There are: none, holds-requests"),
        proxied("x", "http://a"),
    ):
        pass
