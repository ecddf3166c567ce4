"""The decision, and all that must go to the large model."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions_synthetic import certified, chat, jpeg
from halftime.base.errors import BadInput
from halftime.base.store import write_json
from halftime.records.captions import Chain, FirstLook, NeverSmall, Router
from halftime.verbs.captions import features, litellm_hook, request
from halftime.verbs.captions.pictures import PictureClient
from halftime.verbs.captions.router import decide
from halftime.verbs.captions.rules import read_rules

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


def after(data: dict, message: dict) -> dict:
    """The same request after another message."""
    return data | {"messages": [message, *data["messages"]]}


def beside(data: dict, part: dict) -> dict:
    """The same request with one more part."""
    message = data["messages"][0]
    return data | {"messages": [message | {"content": [*message["content"], part]}]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (chat(None), "no picture"),
        (chat(b"no picture at all"), "not seen"),
        (chat(jpeg(), n=2), "not calibrated"),
        (chat(jpeg(), tools=[{"type": "function"}]), "not calibrated"),
        (chat(jpeg(), response_format={"type": "json_schema"}), "not calibrated"),
        (chat(jpeg(), reasoning_effort="high"), "not calibrated"),
        (after(chat(jpeg()), {"role": "system", "content": "Be brief."}), "not calibrated"),
        (after(chat(jpeg()), chat(jpeg(1))["messages"][0]), "not calibrated"),
        (beside(chat(jpeg()), {"type": "input_audio", "input_audio": {}}), "not calibrated"),
        (saying({"url": "https://a/b.png"}), "picture by url"),
        (saying("data:,%%"), "not seen"),
        (saying("data:,a", "data:,b"), "many pictures"),
        ({}, "no picture"),
    ],
)
def test_what_goes_to_the_large_model(data: dict, reason: str) -> None:
    decision = choose(certified(), data)
    assert (decision.small, decision.reason) == (False, reason)


@pytest.mark.parametrize(
    "data",
    [
        chat(jpeg(), n=1, tools=[], response_format={"type": "text"}, logprobs=False),
        chat(jpeg(), temperature=0.1, max_tokens=100, seed=1, stream=True, user="someone"),
        chat(jpeg(size=600, form="PNG")),
        chat(jpeg(size=600, form="WEBP")),
    ],
)
def test_what_changes_nothing_of_what_was_calibrated_goes_small(data: dict) -> None:
    assert choose(certified(), data).small


def test_a_shape_that_was_logged_goes_small_and_one_that_differs_does_not() -> None:
    briefed = after(chat(jpeg()), {"role": "system", "content": "Be brief."})
    router = certified(shapes=(request.caption_request(briefed).shape,))
    assert choose(router, briefed).small
    assert choose(router, chat(jpeg())).small
    told = after(chat(jpeg()), {"role": "system", "content": "Be verbose."})
    assert choose(router, told).reason == "not calibrated"
    assert choose(router, briefed | {"n": 2}).reason == "not calibrated"


def test_a_rule_keeps_requests_from_the_small_model() -> None:
    receipts = NeverSmall(name="receipts", prompt=r"\breceipt", pixels_above=100_000)
    router = certified(never_small=(receipts,))
    assert choose(router, chat(jpeg(), "Read this Receipt")).reason == "rule"
    assert choose(router, chat(jpeg(size=64), "Read this receipt")).small
    assert choose(router, chat(jpeg(), "What is this?")).small


@pytest.mark.parametrize(
    ("rule", "word"),
    [({"name": "all"}, "no condition"), ({"name": "bad", "prompt": "("}, "regular expression")],
)
def test_rules_that_mean_nothing_are_refused(tmp_path, rule: dict, word: str) -> None:
    (tmp_path / "rules.json").write_text(json.dumps({"schema": 1, "never_small": [rule]}))
    with pytest.raises(BadInput, match=word):
        read_rules(tmp_path / "rules.json")


def test_a_first_look_decides_without_a_check_or_asks() -> None:
    names = (*features.NAMES, "check")
    flat = {"weights": (0.0,) * WIDTH, "intercept": 0.0}
    cascade = certified(
        mode="cascade",
        features=names,
        mean=(0.0,) * len(names),
        scale=(10.0,) * len(names),
        weights=(0.0,) * len(names),
    )
    assert decide(cascade, [0.0] * WIDTH).reason == "ask"
    for small_from, ask_from, reason in (
        (0.4, 0.3, "acceptable"),
        (0.6, 0.3, "ask"),
        (2, 2, "threshold"),
    ):
        look = FirstLook(**flat, small_from=small_from, ask_from=ask_from)
        router = msgspec.structs.replace(cascade, first_look=look)
        decision = decide(router, [0.0] * WIDTH)
        assert (decision.small, decision.reason) == (reason == "acceptable", reason)
        assert decide(router, [0.0] * (WIDTH + 1)).small


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


def test_the_hook_of_litellm(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "router.json").write_bytes(msgspec.json.encode(certified()))
    monkeypatch.setenv("HALFTIME_CAPTIONS_ROUTER", str(tmp_path / "router.json"))
    monkeypatch.setenv("HALFTIME_CAPTIONS_SMALL", "tiny")
    with pytest.raises(Exception, match="HALFTIME_CAPTIONS_LARGE"):
        litellm_hook.from_environment()
    monkeypatch.setenv("HALFTIME_CAPTIONS_LARGE", "huge")
    monkeypatch.setattr(litellm_hook, "looked_at", partial(request.looked_at, most_seconds=5.0))
    hook = litellm_hook.from_environment()

    def routed(data: dict) -> dict:
        return hooked(hook, data)

    assert routed(chat(jpeg()))["model"] == "tiny"
    assert routed(chat(None))["model"] == "huge"
    assert routed(chat(jpeg(), model="other")) == chat(jpeg(), model="other")
    # what LiteLLM adds is not the client's
    added = {"litellm_call_id": "1", "secret_fields": {}, "metadata": {"user_api_key": "k"}}
    assert routed(chat(jpeg(), **added))["model"] == "tiny"
    received = {"proxy_server_request": {"body": chat(jpeg())}, "anything": "else"}
    assert routed(chat(jpeg(), **received))["model"] == "tiny"
    assert routed(chat(jpeg(), n=2))["model"] == "huge"


def hooked(hook: litellm_hook.CaptionsRouter, data: dict) -> dict:
    copied = json.loads(json.dumps(data))
    return asyncio.run(hook.async_pre_call_hook(None, None, copied, "completion"))


YES, NO, UNPROVED = certified(0.5), certified(0.99), certified(None)


@pytest.mark.parametrize(
    ("routers", "model"),
    [
        ((YES, YES), "s"),
        ((NO, YES), "m"),
        ((UNPROVED, YES), "m"),
        ((NO, NO), "l"),
        ((UNPROVED, UNPROVED), "l"),
        # without an answer to look at nobody knows what a cascade would have left over
        ((certified(0.5, mode="cascade"), YES), "l"),
    ],
)
def test_the_hook_walks_a_chain(
    tmp_path, monkeypatch: pytest.MonkeyPatch, routers: tuple[Router, Router], model: str
) -> None:
    write_json(tmp_path / "chain.json", Chain(routers=routers, alpha=0.02, delta=0.05))
    values = {"ROUTER": str(tmp_path / "chain.json"), "SMALL": "s", "LARGE": "l", "MIDDLE": "m"}
    for name, value in values.items():
        monkeypatch.setenv(f"HALFTIME_CAPTIONS_{name}", value)
    monkeypatch.setattr(litellm_hook, "looked_at", partial(request.looked_at, most_seconds=5.0))
    assert hooked(litellm_hook.from_environment(), chat(jpeg()))["model"] == model
    assert hooked(litellm_hook.from_environment(), chat(None))["model"] == "l"
    monkeypatch.delenv("HALFTIME_CAPTIONS_MIDDLE")
    with pytest.raises(BadInput, match="HALFTIME_CAPTIONS_MIDDLE is not set"):
        litellm_hook.from_environment()


def test_the_hook_looks_at_pictures_by_url_from_hosts_that_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = PictureClient(("images.example",))
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return jpeg()

    monkeypatch.setattr(pictures, "fetch", fetch)
    monkeypatch.setattr(litellm_hook, "looked_at", partial(request.looked_at, most_seconds=5.0))
    hook = litellm_hook.CaptionsRouter((YES,), ("s", "l"), pictures=pictures)

    def by_url(host: str) -> dict:
        data = chat(None)
        part = {"type": "image_url", "image_url": {"url": f"https://{host}/a.jpg"}}
        data["messages"][0]["content"].append(part)
        return data

    assert hooked(hook, by_url("images.example"))["model"] == "s"
    assert hooked(hook, by_url("elsewhere.example"))["model"] == "l"
    assert (
        hooked(litellm_hook.CaptionsRouter((YES,), ("s", "l")), by_url("images.example"))["model"]
        == "l"
    )
    assert asked == ["https://images.example/a.jpg"]


def test_the_hook_needs_no_more_than_its_list_says(tmp_path) -> None:
    """Above all no torch: whatever else is imported fails here."""
    root = Path(__file__).parents[3]
    lines = (root / "deploy" / "captions-hook.txt").read_text().splitlines()
    requirements = [line for line in lines if not line.startswith("#")]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(requirements) <= {
        *declared["dependencies"],
        *declared["optional-dependencies"]["captions"],
    }
    modules = {"pillow": "PIL", "tomli-w": "tomli_w"}
    names = [re.split("[><=]", requirement)[0] for requirement in requirements]
    allowed = {modules.get(name, name) for name in names} | {"halftime", "typing_extensions"}
    program = """
import sys
from halftime.verbs.captions import litellm_hook
litellm_hook.warm_up()
loaded = {name.partition(".")[0] for name in sys.modules}
print(*(name for name in loaded - set(sys.stdlib_module_names) if not name.startswith("_")))
"""
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    assert set(output.stdout.split()) <= allowed
