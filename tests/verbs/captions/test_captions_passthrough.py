"""The pass-through between the official openai client and two upstreams, over real sockets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import openai
import pytest

from captions_synthetic import certified, chat, jpeg
from captions_upstreams import COMPLETION, CUT, FAILED, OK, STREAM, Model, rude, serving
from halftime.records.captions import Router
from halftime.verbs.captions import app as captions_app
from halftime.verbs.captions import features
from halftime.verbs.captions.app import application
from halftime.verbs.captions.compare import common_words, text_of
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


def test_errors_of_the_small_model_that_are_the_requests_own_pass_through() -> None:
    with setting() as s:
        s.small.status = 400
        with pytest.raises(openai.BadRequestError):
            s.client.chat.completions.create(**chat(jpeg()))
        assert s.large.requests == []


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


def test_shadowed_answers_are_compared_and_drift_is_seen() -> None:
    with setting(shadow=1.0) as s:
        client = s.client
        for _ in range(30):
            # 'small-model says' is not 'large-model says'
            client.chat.completions.create(**chat(jpeg()))
        s.small.answer = "something quite different"
        for _ in range(30):
            client.chat.completions.create(**chat(jpeg()))
        deadline = time.monotonic() + 60
        while s.passthrough.drift.shadowed < 60 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (s.passthrough.drift.shadowed, s.passthrough.drift.unacceptable) == (60, 30)
        health = httpx2.get(s.url.removesuffix("/v1") + "/healthz").json()
        assert "Recalibrate" in health["alarms"][0]


def test_words_in_common_and_what_answers_say() -> None:
    assert common_words("a red apple", "A red, apple!") == 1.0
    assert common_words("a red apple", "a green pear") == pytest.approx(1 / 3)
    assert common_words("", "") == 1.0
    assert text_of(b"".join(STREAM)) == "a red äpple"
    assert text_of(Model("m").completion()) == "m says a red apple"
    assert text_of(b"\x00nonsense") == text_of(b'{"choices": 3}') == text_of(b"data: {") == ""
