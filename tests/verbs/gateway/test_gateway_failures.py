"""A gateway that fails requests holds no load; one whose upstream fails is not blamed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner

from gateway_servers import mock_and_proxy, shorten_calibration
from gateway_synthetic import load, result
from halftime.cli.gateway import command
from halftime.records.gateway import Load
from halftime.report.gateway import report_of
from halftime.report.markdown import markdown
from halftime.verbs.gateway import failures
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.summary import limits
from halftime.verbs.gateway.verdict import with_budget


def counted(direct: int = 0, through: int = 0, per_arm: int = 600, **fields: object) -> Load:
    kinds = {
        f"{arm}: 502": count for arm, count in (("direct", direct), ("through", through)) if count
    }
    return load(error_kinds=kinds, requests=2 * per_arm, through_requests=per_arm, **fields)


@pytest.mark.parametrize(
    ("direct", "through", "expected"),
    [
        (0, 0, False),
        (0, 6, False),  # 1 % is allowed
        (0, 7, True),
        (0, 540, True),
        (540, 540, False),  # the upstream's own
        (30, 35, False),  # within chance of it
        (30, 60, True),
        (600, 600, False),
    ],
)
def test_what_a_gateway_may_fail(direct: int, through: int, expected: bool) -> None:
    assert failures.fails(counted(direct, through), through=True) is expected


def test_an_endpoint_by_itself_may_fail_one_in_a_hundred() -> None:
    alone = msgspec.structs.replace(counted(7), requests=600, through_requests=0)
    assert failures.fails(alone, through=False)
    assert not failures.fails(msgspec.structs.replace(alone, requests=700), through=False)


def test_the_share_comes_with_its_denominator_and_causes() -> None:
    single = failures.failures([counted(through=540)], "through")
    assert single.sentence() == "through: 90 % of 600 requests failed (502)"
    mixed = msgspec.structs.replace(
        counted(), error_kinds={"through: timeout": 2, "through: 502": 10, "direct: 500": 1}
    )
    text = failures.failures([mixed, mixed], "through").sentence()
    assert text == "through: 2 % of 1,200 requests failed (20 x 502, 4 x timeout)"
    assert failures.failing_sentence([mixed], through=True) is None  # only loads that fail


def test_a_failing_rate_is_not_held_nor_is_one_above_it() -> None:
    low, middle, high = (
        load(mode="constant", rate=rate, throughput=rate) for rate in (20.0, 100.0, 300.0)
    )
    broken = msgspec.structs.replace(middle, failing=True)
    assert limits([low, middle, high]) == (300, None)
    assert limits([low, broken, high]) == (20, None)  # and what failing completes is no capacity
    assert limits([broken]) == (None, None)


def test_no_budget_is_kept_where_requests_fail() -> None:
    judged = with_budget(result(load(0.001), load(0.001, mode="closed", failing=True)), 0.02)
    assert judged.within_budget is False
    text = markdown(
        report_of(
            msgspec.structs.replace(judged, failing="through: 90 % of 600 requests failed (502)")
        )
    )
    assert "not kept, since requests failed" in text
    assert text.index("through: 90 % of 600") < text.index("The gateway adds")  # before any time


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)


@pytest.fixture
def invoked() -> Callable[..., tuple[int, str, str]]:
    """The command against a mock and a proxy that answers 502 to nine of ten requests.

    Returns exit code, output and error output.
    """

    def run(*words: str) -> tuple[int, str, str]:
        with mock_and_proxy(Behaviour(delay=0.0), "fails-some", share=0.9) as (direct, through):
            ends = ["--direct", direct, "--through", through]
            ends += ["--requests", "40", "--concurrency", "0"]
            completed = CliRunner().invoke(
                command, [*ends, "--budget", "10s", *words], standalone_mode=False
            )
        return completed.return_value, completed.stdout, completed.stderr

    return run


def test_the_command_refuses_a_gateway_that_fails_nine_of_ten(
    invoked: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = invoked("--rate", "30", "--duration", "1s", "--arrival", "constant")
    assert code == 1
    out = " ".join(out.split())
    assert "through: 90 % of 70 requests failed (502)" in out[:300]
    assert "of 70 requests failed (502): one at a time; 30/s constant." in out
    assert "Holds none of the rates asked for." in out
    assert "held" not in out.split("Verdict")[1].split("Findings")[0].replace("Holds", "")


def test_it_says_so_with_quiet_too(invoked: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = invoked("--quiet")
    assert (code, out) == (1, "")
    assert err.startswith("through: 90 % of 40 requests failed (502).")


def test_failures_of_the_upstream_are_a_doubt_not_the_gateways_fault() -> None:
    with mock_and_proxy(Behaviour(delay=0.0, error_rate=0.4, seed=2)) as (direct, through):
        result = gateway(GatewaySettings(direct, through, requests=100, concurrency=0))
    assert result.rates[0].errors > 40
    assert result.failing is None
    assert any(
        doubt.startswith("direct: ") and "of 100 requests failed (500)" in doubt
        for doubt in result.doubts
    )
    assert with_budget(result, 10.0).within_budget
