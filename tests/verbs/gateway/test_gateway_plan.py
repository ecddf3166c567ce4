"""What will be sent is said first; and what a URL and a key alone are enough for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway_servers import mock_and_proxy, shorten_calibration
from halftime.base.errors import BadFile, BadInput
from halftime.cli.gateway import command, parse_goodput, parse_prices, read_prompts
from halftime.testing import proxied
from halftime.verbs.gateway import discover
from halftime.verbs.gateway.analysis import Limits
from halftime.verbs.gateway.endpoint import Payload, Trust, endpoint, usual_key
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.plan import MOST_ABROAD, Tariff, is_near, plan_of, sentence
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import listed_models, take_log

SETTINGS = GatewaySettings(
    "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", concurrency=0, requests=100, rates=(20.0,)
)


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calibration(monkeypatch)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(command, words, standalone_mode=False)


def test_every_request_is_counted() -> None:
    plan = plan_of(SETTINGS)
    assert [load.requests for load in plan.loads] == [8, 200, 240, 240]
    assert (plan.requests, plan.bounded) == (688, True)
    assert sentence(plan).startswith("sends at most 688 requests to http://127.0.0.1:1/v1 and ")
    alone = plan_of(replace(SETTINGS, through=None))
    assert alone.requests == 344


def test_a_closed_loop_has_no_number_until_it_gets_one() -> None:
    plan = plan_of(replace(SETTINGS, concurrency=8))
    assert not plan.bounded
    assert "as many as are answered in the closed loop, 8 at once" in sentence(plan)
    capped = plan_of(replace(SETTINGS, concurrency=8, max_requests=1000))
    assert (capped.requests, capped.bounded) == (1000, True)


def test_tokens_and_dollars() -> None:
    plan = plan_of(SETTINGS, Tariff(1.0, 2.0))
    assert plan.output_tokens == 688 * 64
    assert plan.dollars == pytest.approx((plan.input_tokens + 2 * plan.output_tokens) / 1e6)
    pictures = replace(SETTINGS, payload=Payload("image-out"))
    plan = plan_of(pictures, Tariff(request=0.04))
    assert plan.input_tokens is None
    assert plan.dollars == pytest.approx(688 * 0.04)
    assert sentence(plan).endswith("about $27.52")


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:9/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://localhost/v1", True),
        ("http://vllm:8000/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://8.8.8.8/v1", False),
        ("http://[::1]:9/v1", True),
    ],
)
def test_an_upstream_outside_of_the_network_is_asked_no_more_than_a_default(
    url: str, near: bool
) -> None:
    assert is_near(url) is near
    out = json.loads(invoke("--direct", url, "--dry-run", "--json", "-").output)
    assert out["bounded"] is not near
    assert near or out["requests"] == MOST_ABROAD


def test_a_dry_run_sends_nothing() -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        completed = invoke(through, "--direct", direct, "--dry-run", "--price", "0.15,0.60")
        assert take_log(direct) == {}
    assert completed.return_value == 0
    assert "Nothing was sent. It would be" in completed.output
    assert "$" in completed.output


def test_no_more_requests_are_sent_than_allowed() -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        settings = GatewaySettings(direct, through, max_requests=40, seconds=0.3)
        result = gateway(settings)
        remaining = sum(map(len, take_log(direct).values()))
    assert result.requests == 40
    assert remaining == 0  # each load had emptied the log
    assert result.rates[0].cut == "--max-requests 40 were sent"
    assert "ended early: --max-requests 40 were sent." in result.doubts
    assert result.did_its_job


def test_the_urls_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--requests", "5", "--concurrency", "0"]
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        both = invoke(through, "--direct", direct, *words)
        before = invoke(*words, "--direct", direct, through)
        alone = invoke(direct, *words)
    assert (both.return_value, before.return_value, alone.return_value) == (0, 0, 0)
    assert f"{through} in front of {direct}" in " ".join(both.output.split())
    assert f"{direct} by itself" in alone.output
    assert "sends at most 18 requests" in " ".join(both.output.split())  # 8 first, and 5 pairs


def test_the_model_is_the_one_that_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, rates=())
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, _):
        assert listed_models(direct, {}, Trust()) == ["mock-model"]
        assert discover.named_model(replace(settings, direct=direct)) == "mock-model"
    monkeypatch.setattr(discover, "listed_models", lambda *_: [])
    assert discover.named_model(settings) == "mock-model"
    monkeypatch.setattr(discover, "listed_models", lambda *_: ["only"])
    assert discover.named_model(settings) == "only"
    monkeypatch.setattr(discover, "listed_models", lambda *_: [f"m{i}" for i in range(9)])
    with pytest.raises(BadInput, match=r"lists 9 models: m0, m1, m2, m3, m4, ….*--model"):
        discover.named_model(settings)


def test_another_name_at_the_gateway() -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        settings = GatewaySettings(
            direct, through, Payload(model="a"), through_model="b", requests=5, concurrency=0
        )
        result = gateway(settings)
    assert result.rates[0].upstream.models == ("b",)  # this proxy does not translate it
    assert not result.did_its_job
    provided = replace(settings, through_model="openai/a")
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        assert gateway(replace(provided, direct=direct, through=through)).did_its_job


def test_a_services_own_key_is_used_at_its_own_url_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert usual_key("https://api.openai.com/v1") == "OPENAI_API_KEY"
    assert usual_key("https://api.openai.com.evil.example/v1") is None
    assert usual_key("http://127.0.0.1/v1") is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert usual_key("https://api.openai.com/v1") is None


def test_prompts_are_sent_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text('A fox\n\n{"prompt": "A hen"}\n"A \\"cat\\""\n')
    prompts = read_prompts(str(file))
    assert prompts == ("A fox", "A hen", 'A "cat"')
    point = endpoint("http://h:1", Payload(prompts=prompts))
    bodies = [b"".join(point.parts("0000002a", turn)) for turn in range(4)]
    for body, prompt in zip(bodies, (*prompts, prompts[0]), strict=True):
        head, _, text = body.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(text)}".encode() in head
        message = json.loads(text)["messages"][0]["content"]
        assert message == f"{prompt} (halftime-0000002a)"
    for text in ("", '{"text": "a"}', "{broken"):
        file.write_text(text)
        with pytest.raises(BadFile, match="--prompts"):
            read_prompts(str(file))


def test_a_user_in_the_url_is_one() -> None:
    head = b"".join(endpoint("http://me:p%40ss@h:1", Payload()).parts("0" * 8))
    assert b"Authorization: Basic bWU6cEBzcw==\r\n" in head
    assert b"Host: h:1\r\n" in head


def test_limits_of_goodput_and_prices() -> None:
    assert parse_goodput("first=500ms, gap=50ms,whole=5s") == Limits(0.5, 0.05, 5.0)
    assert not parse_goodput(None)
    assert parse_prices("0.15,0.6") == Tariff(0.15, 0.6)
    assert parse_prices("0.04") == Tariff(request=0.04)
    for text in ("500ms", "last=1s", "first=soon", "first=0"):
        with pytest.raises(BadInput):
            parse_goodput(text)
    for text in ("a", "1,2,3", "-1", "nan"):
        with pytest.raises(BadInput):
            parse_prices(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--client-key k.pem", "--client-key needs --client-cert"),
        ("--insecure --ca-file a.pem", "leave one out"),
        ("--through-model m", "--through-model needs --through URL"),
        ("--prompts no-such-file", "--prompts no-such-file"),
        ("--max-requests 0", "x>=1"),
        ("--poll 0", "--poll '0' is not above zero"),
    ],
)
def test_meaningless_options_are_refused(words: str, message: str) -> None:
    error = invoke("--direct", "http://127.0.0.1:9/v1", *words.split()).exception
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    assert message in text


@pytest.mark.parametrize("target", ["replicate", "fal"])
def test_jobs_are_followed_to_their_end(target: str) -> None:
    behaviour = Behaviour(delay=0.03, queue=0.05)
    with mock_and_proxy(behaviour) as (base, _):
        direct = base.removesuffix("/v1")
        with proxied("none", direct) as through:
            result = gateway(
                GatewaySettings(
                    direct,
                    through,
                    Payload("image-out", 2000),
                    target,
                    requests=3,
                    concurrency=0,
                    poll=0.005,
                )
            )
    load = result.rates[0]
    assert load.errors == 0
    assert result.did_its_job
    for jobs in (load.jobs_direct, load.jobs_through):
        assert jobs.queue >= 0.03
        assert jobs.queue + jobs.run >= 0.06
    assert load.direct.p50 >= 0.08
    assert load.truth is None  # time passes between questions
    assert result.requests > 4 * load.requests  # each question is one
    assert result.rates[0].answers.direct_size > 2000  # the picture is in the answer at the end


def test_goodput_counts_what_is_within_the_limits() -> None:
    with mock_and_proxy(Behaviour(delay=0.0)) as (direct, through):
        settings = GatewaySettings(direct, through, requests=6, concurrency=0)
        generous = gateway(replace(settings, within=Limits(whole=60.0)))
        strict = gateway(replace(settings, within=Limits(whole=1e-9)))
    assert generous.rates[0].goodput.through == 1
    assert (strict.rates[0].goodput.direct, strict.rates[0].goodput.through) == (0, 0)
