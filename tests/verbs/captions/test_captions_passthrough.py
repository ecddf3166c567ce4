"""The pass-through between the official openai client and two upstreams, over real sockets."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

from captions_synthetic import certified, chat, jpeg
from captions_upstreams import COMPLETION, CUT, FAILED, OK, STREAM, Model, rude, serving
from halftime.records.captions import Router
from halftime.verbs.captions import app as captions_app
from halftime.verbs.captions import features
from halftime.verbs.captions.app import application
from halftime.verbs.captions.compare import text_of
from halftime.verbs.captions.passthrough import PassThrough, PassThroughSettings
from halftime.verbs.captions.upstream import Upstream

WIDTH = len(features.NAMES)


@dataclass
class Setting:
    small: Model
    large: Model
    passthrough: PassThrough
    url: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="client-key", max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        text = httpx2.get(self.url.removesuffix("/v1") + "/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)
        )


@contextmanager
def setting(calibrated: Router | None = None, **changes: object) -> Iterator[Setting]:
    small, large = Model("small-model"), Model("large-model")
    with serving(small) as small_url, serving(large) as large_url:
        app = application(
            PassThroughSettings(
                calibrated or certified(),
                Upstream("small-model", small_url, "small-key", price=0.1),
                Upstream("large-model", large_url, "", price=1.0, price_in=1000.0),
                **{"shadow": 0.0, "most_seconds": 5.0, **changes},  # type: ignore[arg-type]
            )
        )
        with serving(app) as url:
            yield Setting(small, large, app.state.passthrough, url)


def test_the_openai_client_reaches_the_right_model() -> None:
    with setting() as s:
        small = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        large = s.client.chat.completions.with_raw_response.create(**chat(None))
        assert small.parse().choices[0].message.content == "small-model says a red apple"
        assert (small.headers["x-halftime-route"], small.headers["x-halftime-reason"]) == (
            "small",
            "acceptable",
        )
        assert large.headers["x-halftime-reason"] == "no picture"
        assert (s.small.requests[0]["model"], s.large.requests[0]["model"]) == (
            "small-model",
            "large-model",
        )
        assert s.small.requests[0]["messages"] == chat(jpeg())["messages"]
        # The small one's own key, and the client's where the large one has none.
        assert (s.small.authorization, s.large.authorization) == (
            ["Bearer small-key"],
            ["Bearer client-key"],
        )
        assert s.metric('halftime_captions_spend_total{model="small-model"}') == pytest.approx(0.1)
        assert s.metric('halftime_captions_spend_total{model="large-model"}') == pytest.approx(
            1.0 + 1.0
        )
        assert s.metric("halftime_captions_decisions_total{") == 2
        assert {m.id for m in s.client.models.list()} == {"captions", "small-model", "large-model"}


def test_streams_pass_untouched() -> None:
    with setting() as s:
        pieces = [
            chunk.choices[0].delta.content
            for chunk in s.client.chat.completions.create(**chat(jpeg(), stream=True))
        ]
        assert pieces == ["a ", "red ", "äpple"]
        raw = httpx2.post(f"{s.url}/chat/completions", json=chat(jpeg(), stream=True))
        assert raw.content == b"".join(STREAM)
        assert raw.headers["content-type"] == "text/event-stream"


def test_other_models_and_other_paths_go_through_as_they_came() -> None:
    with setting() as s:
        body = b'{ "model":"something-else",  "messages": [] }'
        answer = httpx2.post(f"{s.url}/chat/completions?x=1", content=body)
        assert answer.content == s.large.completion()
        assert "x-halftime-route" not in answer.headers
        assert httpx2.post(f"{s.url}/embeddings", content=b"{}").content == s.large.completion()
        assert s.large.requests[0]["model"] == "something-else"
        assert answer.headers.get_list("x-request-id") == ["upstream-1"]


def test_its_own_pages_are_read_only_and_bodies_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captions_app, "MOST_BODY", 100)
    with setting() as s:
        root = s.url.removesuffix("/v1")
        assert httpx2.get(f"{root}/healthz").json() == {
            "status": "ok",
            "certified": True,
            "mode": "route",
            "alarms": [],
        }
        assert httpx2.post(f"{root}/healthz", content=b"{}").content == s.large.completion()
        too_large = httpx2.post(f"{s.url}/embeddings", content=b"x" * 101)
        assert (too_large.status_code, too_large.json()["error"]["type"]) == (
            413,
            "invalid_request_error",
        )
        assert len(s.large.requests) == 1


def test_a_small_model_that_fails_is_replaced_by_the_large_one() -> None:
    with setting() as s:
        s.small.status = 503
        answer = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert answer.parse().model == "large-model"
        assert answer.headers["x-halftime-reason"] == "failed"
    unreachable = Upstream("small-model", "http://127.0.0.1:9/v1")
    with setting() as s:
        object.__setattr__(s.passthrough.settings, "small", unreachable)
        assert s.client.chat.completions.create(**chat(jpeg())).model == "large-model"


def test_a_large_model_that_is_gone_gives_an_error_in_openais_shape() -> None:
    with setting() as s:
        object.__setattr__(
            s.passthrough.settings, "large", Upstream("large-model", "http://127.0.0.1:9/v1")
        )
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            s.client.chat.completions.create(**chat(None))


def asks(s: Setting, kind: str) -> httpx2.Response:
    """A request that goes to the large model: routed, streamed, or passed through."""
    if kind == "passed":
        return httpx2.post(f"{s.url}/embeddings", content=b'{"input": "x"}', timeout=60)
    return httpx2.post(
        f"{s.url}/chat/completions", json=chat(None, stream=kind == "streamed"), timeout=60
    )


@pytest.mark.parametrize("kind", ["routed", "streamed", "passed"])
def test_an_upstream_that_reads_and_resets_gives_an_error_in_openais_shape(kind: str) -> None:
    with setting() as s, rude([], []) as (server, url):
        object.__setattr__(s.passthrough.settings, "large", Upstream("large-model", url))
        answer = asks(s, kind)
        assert (answer.status_code, answer.json()["error"]["type"]) == (502, "server_error")
        assert "large-model cannot be reached" in answer.json()["error"]["message"]
        assert s.metric('halftime_captions_upstream_errors_total{model="large-model"}') == 1
        assert (
            len(server.requests) == 1
        )  # it was read, and may have been worked on: never sent again


@pytest.mark.parametrize("kind", ["routed", "streamed", "passed"])
@pytest.mark.parametrize("first", [OK, FAILED])
def test_a_request_that_meets_a_stale_connection_is_sent_once_more(kind: str, first: bytes) -> None:
    with setting() as s, rude([first], [OK]) as (server, url):
        object.__setattr__(s.passthrough.settings, "large", Upstream("large-model", url))
        assert asks(s, kind).status_code == (500 if first == FAILED else 200)
        again = asks(s, kind)
        assert (again.status_code, again.content) == (200, COMPLETION)
        assert [number for number, _ in server.requests] == [0, 0, 1]
        assert server.requests[1][1] == server.requests[2][1]
        assert s.metric('halftime_captions_upstream_errors_total{model="large-model"}') == 0


def test_a_request_is_sent_once_more_and_not_for_ever() -> None:
    with setting() as s, rude([OK], [], []) as (server, url):
        object.__setattr__(s.passthrough.settings, "large", Upstream("large-model", url))
        asks(s, "passed")
        assert asks(s, "passed").status_code == 502
        assert [number for number, _ in server.requests] == [0, 0, 1]


@pytest.mark.parametrize("picture", [jpeg(), None])
def test_an_answer_that_breaks_off_is_cut_and_not_mixed_with_another(
    picture: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        setting() as s,
        rude([CUT], [], close_at_once=True) as (_, url),
        caplog.at_level(logging.WARNING),
    ):
        name = "small" if picture else "large"
        object.__setattr__(s.passthrough.settings, name, Upstream(f"{name}-model", url))
        with (
            httpx2.stream(
                "POST", f"{s.url}/chat/completions", json=chat(picture), timeout=60
            ) as answer,
            pytest.raises(httpx2.RemoteProtocolError),
        ):  # what came does not look whole
            answer.read()
        assert f"{name}-model stopped in the middle" in caplog.text
        assert "Traceback" not in caplog.text
        assert s.large.requests == []
        assert s.metric(f'halftime_captions_upstream_errors_total{{model="{name}-model"}}') == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_small_model_that_refuses_is_replaced_by_the_large_one(status: int) -> None:
    with setting() as s:
        s.small.status = status
        answer = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert answer.parse().model == "large-model"
        assert answer.headers["x-halftime-reason"] == "failed"


def test_a_cascade_answers_small_or_asks_again() -> None:
    names = (*features.NAMES, "check")
    cascade = certified(
        mode="cascade",
        features=names,
        mean=(0.0,) * len(names),
        scale=(10.0,) * WIDTH + (1.0,),
        weights=(0.0,) * WIDTH + (10.0,),
        intercept=-5.0,
    )
    with setting(cascade, judge=lambda picture, prompt, answer: float("apple" in answer)) as s:
        small = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert (small.parse().model, small.headers["x-halftime-route"]) == ("small-model", "small")
        s.small.answer = "no idea"
        escalated = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert (escalated.parse().model, escalated.headers["x-halftime-reason"]) == (
            "large-model",
            "check",
        )
        assert s.metric('halftime_captions_spend_total{model="small-model"}') == pytest.approx(0.2)
        assert [
            c.choices[0].delta.content
            for c in s.client.chat.completions.create(**chat(jpeg(), stream=True))
        ]


def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    with setting() as s:
        s.small.endless = True
        with httpx2.stream(
            "POST", f"{s.url}/chat/completions", json=chat(jpeg(), stream=True)
        ) as answer:
            next(answer.iter_bytes())
        assert s.small.left.wait(60)


def judge(picture: bytes, prompt: str, answer: str) -> float:
    """An apple is right, however it is worded."""
    return float("apple" in answer)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_shadowed_answers_are_judged_and_drift_sends_everything_large(tmp_path: Path) -> None:
    journal = tmp_path / "drift"
    with setting(shadow=1.0, judge=judge, on_drift="large", drift_file=journal) as s:
        client, drift = s.client, s.passthrough.drifts[0]
        s.small.answer, s.large.answer = "one apple, quite red", "the picture shows an apple"
        for _ in range(5):
            client.chat.completions.create(**chat(jpeg()))
        wait_until(lambda: drift.shadowed == 5)
        assert drift.unacceptable == 0  # other words, the same apple
        s.small.answer = "a pear"
        for _ in range(10):
            client.chat.completions.create(**chat(jpeg()))
        wait_until(lambda: drift.shadowed + drift.unacceptable >= 10 and bool(drift.alarms))
        health = httpx2.get(s.url.removesuffix("/v1") + "/healthz").json()
        assert "Recalibrate" in health["alarms"][0]
        answer = client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert answer.headers["x-halftime-reason"] == "drift"
    # another process, later
    with setting(judge=judge, on_drift="large", drift_file=journal) as s:
        answer = s.client.chat.completions.with_raw_response.create(**chat(jpeg()))
        assert answer.parse().model == "large-model"


def test_without_a_judge_nothing_is_shadowed() -> None:
    with setting(shadow=1.0) as s:
        s.client.chat.completions.create(**chat(jpeg()))
        assert s.large.requests == []
        assert s.passthrough._shadows == set()


def test_a_judge_that_raises_costs_a_shadow_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def raises(picture: bytes, prompt: str, answer: str) -> float:
        raise ValueError(answer)

    with setting(shadow=1.0, judge=raises) as s:
        assert s.client.chat.completions.create(**chat(jpeg())).model == "small-model"
        wait_until(lambda: "the judge raised ValueError" in caplog.text)
        assert "apple" not in caplog.text
        assert s.passthrough.drifts[0].shadowed == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    ],
)
def test_outside_of_what_was_certified_goes_large(fields: dict) -> None:
    with setting() as s:
        body = chat(jpeg()) | fields
        answer = httpx2.post(f"{s.url}/chat/completions", json=body, timeout=60)
        assert answer.headers["x-halftime-reason"] == "not calibrated"
        assert s.large.requests[0] == body | {"model": "large-model"}


def test_the_responses_api_is_routed_too() -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg()).decode()
    parts = [
        {"type": "input_text", "text": "What is in this picture?"},
        {"type": "input_image", "image_url": url},
    ]
    body = {"model": "captions", "input": [{"role": "user", "content": parts}]}
    with setting() as s:
        answer = httpx2.post(f"{s.url}/responses", json=body, timeout=60)
        assert answer.headers["x-halftime-route"] == "small"
        plain = httpx2.post(f"{s.url}/responses", json=body | {"input": "hello"}, timeout=60)
        assert plain.headers["x-halftime-reason"] == "no picture"
        told = httpx2.post(f"{s.url}/responses", json=body | {"instructions": "x"}, timeout=60)
        assert told.headers["x-halftime-reason"] == "not calibrated"


def test_a_picture_by_url_is_looked_at_where_its_host_was_named() -> None:
    picture = jpeg()

    async def host(scope, receive, send) -> None:
        if scope["type"] == "http":
            elsewhere = scope["path"] == "/v1/moved"
            headers = [(b"location", b"/v1/a.jpg")] if elsewhere else []
            status = 302 if elsewhere else 200
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": picture})

    def reason(s: Setting, url: str) -> str:
        part = {"type": "image_url", "image_url": {"url": url}}
        body = chat(None)
        body["messages"][0]["content"].append(part)
        answer = httpx2.post(f"{s.url}/chat/completions", json=body, timeout=60)
        return answer.headers["x-halftime-reason"]

    with serving(host) as url:
        name = url.removeprefix("http://").removesuffix("/v1")
        with setting(fetch_from=(name,)) as s:
            assert reason(s, f"{url}/a.jpg") == "acceptable"
            assert reason(s, f"{url}/moved") == "picture by url"
            assert reason(s, "http://127.0.0.1:9/a.jpg") == "picture by url"


def test_what_answers_say() -> None:
    assert text_of(b"".join(STREAM)) == "a red äpple"
    assert text_of(Model("m").completion()) == "m says a red apple"
    assert text_of(b"\x00nonsense") == text_of(b'{"choices": 3}') == text_of(b"data: {") == ""
    part = {"type": "output_text", "text": "a red apple"}
    answer = {"output": [{"type": "reasoning"}, {"type": "message", "content": [part]}]}
    assert text_of(json.dumps(answer).encode()) == "a red apple"
    events = [{"type": "response.output_text.delta", "delta": word} for word in ("a ", "red")]
    streamed = "".join(f"event: x\ndata: {json.dumps(event)}\n\n" for event in events)
    assert text_of(streamed.encode()) == "a red"
