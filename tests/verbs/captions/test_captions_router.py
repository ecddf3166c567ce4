"""The decision, and all that must go to the large model."""

from __future__ import annotations

import json
from functools import partial
from itertools import count

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions_synthetic import certified, chat, jpeg
from halftime.records.captions import Router
from halftime.verbs.captions import features, request
from halftime.verbs.captions.drift import RECENT, Drift
from halftime.verbs.captions.router import decide

# One decision may take 50 ms, which a busy machine does not always give; the test of the limit
# brings its own clock.
choose = partial(request.choose, most_seconds=5.0)
WIDTH = len(features.NAMES)


def test_an_ordinary_request_goes_to_the_small_model() -> None:
    assert choose(certified(), chat(jpeg())).small
    decision = choose(certified(threshold=0.99), chat(jpeg()))
    assert (decision.small, decision.reason) == (False, "threshold")


def saying(*images: object) -> dict:
    parts = [{"type": "image_url", "image_url": image} for image in images]
    return {"messages": [{"role": "user", "content": parts}]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (chat(None), "no picture"),
        (chat(b"no picture at all"), "not seen"),
        (chat(jpeg(size=600, form="PNG")), "not seen"),
        (saying({"url": "https://a/b.png"}), "picture by url"),
        (saying("data:,%%"), "not seen"),
        (saying("data:,a", "data:,b"), "many pictures"),
        ({}, "no picture"),
    ],
)
def test_what_goes_to_the_large_model(data: dict, reason: str) -> None:
    decision = choose(certified(), data)
    assert (decision.small, decision.reason) == (False, reason)


def test_without_a_certificate_nothing_is_looked_at() -> None:
    assert choose(certified(threshold=None), {"messages": 3}).reason == "uncertified"


def test_another_routers_features_are_not_understood() -> None:
    assert decide(certified(features=("a",)), [0.0] * WIDTH).reason == "not understood"
    assert choose(certified(), chat(jpeg()), check=0.5).reason == "not understood"


def test_requests_unlike_the_calibrated_ones() -> None:
    assert decide(certified(), [1e4] * WIDTH).reason == "unlike"
    assert decide(certified(), [float("nan")] * WIDTH).reason == "unlike"


def test_a_decision_that_takes_too_long() -> None:
    ticks = count()
    assert (
        request.choose(certified(), chat(jpeg()), clock=lambda: next(ticks) * 0.06).reason
        == "timeout"
    )


WORDS = st.sampled_from(["role", "content", "type", "text", "image_url", "url", "user"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text() | WORDS


@given(
    st.recursive(
        LEAVES, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=20
    )
)
def test_no_request_breaks_the_decision(messages: object) -> None:
    assert choose(certified(), {"messages": messages}).small is False


@given(st.lists(st.floats(-20, 20), min_size=WIDTH, max_size=WIDTH))
def test_the_same_request_gets_the_same_decision_after_a_round_trip(values: list[float]) -> None:
    again = msgspec.json.decode(msgspec.json.encode(certified()), type=Router)
    assert decide(certified(), values) == decide(again, values)


def test_drift_in_the_answers_and_in_the_share() -> None:
    drift = Drift(certified())
    for index in range(100):
        drift.judged(index % 10 != 0)  # 10 % wrong, where 2 % was certified
    assert "Recalibrate" in drift.alarms[0]
    calm = Drift(certified())
    rng = np.random.default_rng(0)
    for _ in range(RECENT):
        calm.routed(bool(rng.random() < 0.7))
        calm.judged(bool(rng.random() < 0.985))
    assert calm.alarms == []
    for _ in range(RECENT):
        calm.routed(False)
    assert "the requests have changed" in calm.alarms[0]


def test_the_hook_of_litellm(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from halftime.verbs.captions import litellm_hook

    (tmp_path / "router.json").write_bytes(msgspec.json.encode(certified()))
    monkeypatch.setenv("HALFTIME_CAPTIONS_ROUTER", str(tmp_path / "router.json"))
    monkeypatch.setenv("HALFTIME_CAPTIONS_SMALL", "tiny")
    with pytest.raises(Exception, match="HALFTIME_CAPTIONS_LARGE"):
        litellm_hook.from_environment()
    monkeypatch.setenv("HALFTIME_CAPTIONS_LARGE", "huge")
    monkeypatch.setattr(litellm_hook, "choose", choose)
    hook = litellm_hook.from_environment()

    def routed(data: dict) -> dict:
        return asyncio.run(
            hook.async_pre_call_hook(None, None, json.loads(json.dumps(data)), "completion")
        )

    assert routed(chat(jpeg()))["model"] == "tiny"
    assert routed(chat(None))["model"] == "huge"
    assert routed(chat(jpeg(), model="other")) == chat(jpeg(), model="other")
