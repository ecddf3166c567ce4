"""Who asks, under which name, and how much: keys, quotas, hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from serve_helpers import job

from halftime.base.errors import BadInput
from halftime.cli import halftime
from halftime.http.access import address_of
from halftime.http.errors import ApiError
from halftime.testing import FakeClock
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.process import COMMAND, _environment
from halftime.verbs.serve.quotas import KeySettings, Quotas, keys_in, read_keys
from halftime.verbs.serve.run import hosts_for
from serve_fake import ENDLESS, Running, http, serving, wait_until

DRAW = "/v1/images/generations"
KEYS = {
    "alice": KeySettings(secret="a-secret"),
    "bob": KeySettings(secret="b-secret", pictures_per_minute=3.0, waiting=2),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(keys=KEYS, api_keys=("plain",), hosts=hosts_for("127.0.0.1")) as server:
        yield server


def draw(running: Running, secret: str, **body: object) -> tuple[int, dict[str, str], dict]:
    headers = {"authorization": f"Bearer {secret}"}
    answer = http.post(running.address + DRAW, json={"prompt": "p", **body}, headers=headers)
    return answer.status_code, dict(answer.headers), answer.json()


# ---- keys


def test_each_key_has_its_name_in_the_queue_and_the_metrics(running: Running) -> None:
    for secret, name in (("a-secret", "alice"), ("plain", "key-1")):
        assert draw(running, secret, n=2)[0] == 200
        assert running.engine.jobs[-1].client == name
        assert f'halftime_key_pictures_total{{key="{name}"}} 2.0' in running.metrics()
    assert draw(running, "wrong")[0] == 401
    assert draw(running, "a-secret", steps=0)[0] == 400
    assert 'rejected_total{code="invalid_value",key="alice"} 1.0' in running.metrics()
    assert "secret" not in running.metrics()


def test_a_quota_is_told_with_the_time_to_come_back(running: Running) -> None:
    assert draw(running, "b-secret", n=2)[0] == 200
    status, headers, body = draw(running, "b-secret", n=2)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 20
    status, _, body = draw(running, "b-secret", n=3)
    assert (status, body["error"]["param"]) == (400, "n")
    assert draw(running, "a-secret")[0] == 200  # the others' quota is theirs


def test_pictures_in_hand_are_given_back_when_they_are_answered() -> None:
    keys = {"bob": KeySettings(secret="b-secret", waiting=1)}
    with serving(keys=keys) as running:
        headers = {"authorization": "Bearer b-secret"}
        body = {"prompt": ENDLESS, "stream": True}
        with http.stream("POST", running.address + DRAW, json=body, headers=headers):
            assert draw(running, "b-secret")[2]["error"]["code"] == "too_many_waiting"
        wait_until(lambda: running.engine.status.running == 0)
        wait_until(lambda: running.service.traffic.active == 0)
        for prompt in ("p", "fail internal", "refuse", "p"):
            assert draw(running, "b-secret", prompt=prompt)[0] != 429


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(1, 6)), max_size=40))
def test_a_rate_is_never_exceeded_and_never_lost(asks: list[tuple[float, int]]) -> None:
    """In any span of time at most what the rate allows in it, and a minute's burst."""
    clock, allowed = FakeClock(), list[tuple[float, int]]()
    keys = {"k": KeySettings(secret="x", pictures_per_minute=6.0)}
    quotas = Quotas(keys, lambda: clock.now)
    for pause, count in asks:
        clock.advance(pause)
        try:
            quotas.take("k", count)
        except ApiError as error:
            clock.advance((error.retry_after or 0.0) + 1e-6)
            quotas.take("k", count)  # told the truth
        allowed.append((clock.now, count))
    for index, (begin, _) in enumerate(allowed):
        for length in range(index, len(allowed)):
            span = allowed[length][0] - begin
            total = sum(count for _, count in allowed[index : length + 1])
            assert total <= 6.0 + span / 10.0 + 1e-3


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_an_empty_key_does_not_start(text: str) -> None:
    with pytest.raises(BadInput, match="HALFTIME_API_KEY is set and holds no key"):
        keys_in("HALFTIME_API_KEY", text)
    for variable in ("HALFTIME_API_KEY", "HALFTIME_PROFILE_TOKEN"):
        result = CliRunner().invoke(halftime, ["serve"], env={variable: text})
        assert isinstance(result.exception, BadInput)
        assert f"{variable} is set and holds no key" in str(result.exception)


def test_keys_of_the_environment() -> None:
    assert keys_in("X", None) == ()
    assert keys_in("X", "one, two,") == ("one", "two")
    for text in ("schlüssel", "two words", "a\tb"):
        with pytest.raises(BadInput, match="no header can carry"):
            keys_in("X", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no key"),
        ("[a]\nsecret = ''", "no file of keys"),
        ("[a]\nsecret = 'x'\nlimit = 3", "unknown field `limit`"),
        ("[a]\nsecret = 'x'\nwaiting = 0", ">= 1"),
        ("[a]\nsecret = 'x'\n[b]\nsecret = 'x'", "two names to one key"),
        ("[a]\nsecret = 'x'\nweight = 0", "> 0"),
        ("[a]\nsecret = 'x y'", "no header can carry"),
        ("nonsense", "no file of keys"),
    ],
)
def test_a_file_of_keys_is_checked(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=reason):
        read_keys(path)
    with pytest.raises(BadInput, match="cannot read"):
        read_keys(tmp_path / "none.toml")


def test_the_file_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
    path = tmp_path / "keys.toml"
    text = page.split("```toml\n# keys.toml")[1].split("```")[0]
    path.write_text(f"#{text}".replace("sk-...", "sk-1", 1))
    keys = read_keys(path)
    assert (keys["alice"].pictures_per_minute, keys["alice"].waiting) == (60, 8)
    assert keys["batch-job"].waiting is None
    quotas = Quotas(keys, time.monotonic)
    assert [quotas.weight(name) for name in ("alice", "batch-job", "key-1")] == [4.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
    ],
)
def test_without_keys_an_address_is_a_client(address: str, client: str) -> None:
    assert address_of({"client": (address, 1)}) == client
    assert address_of({"client": None}) == ""
    assert job(client=client).client == client


# ---- the worker's surroundings


def test_a_worker_has_no_keys_and_takes_no_libraries_from_the_folder_it_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HALFTIME_API_KEY", "secret")
    monkeypatch.setenv("HALFTIME_PROFILE_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "for gated models")
    environment = _environment(EngineSettings())
    assert "secret" not in environment.values()
    assert environment["HF_TOKEN"] == "for gated models"
    assert set(os.environ) - set(environment) == {"HALFTIME_API_KEY", "HALFTIME_PROFILE_TOKEN"}
    assert "-P" in COMMAND


# ---- hosts


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("attacker.example", 421),
        ("attacker.example:8000", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("10.0.0.1", 421),
        ("user@localhost", 400),
        ("localhost:port", 400),
        ("", 400),
    ],
)
def test_a_loopback_server_answers_under_its_own_names_only(
    running: Running, host: str, status: int
) -> None:
    for path in ("/healthz", "/v1/models", "/"):
        headers = {"host": host, "authorization": "Bearer a-secret"}
        assert http.get(running.address + path, headers=headers).status_code == status


def test_which_names_a_server_answers_under() -> None:
    assert hosts_for("127.0.0.1") == hosts_for("localhost") == ("localhost", "127.0.0.1", "::1")
    assert hosts_for("0.0.0.0") == ()
    assert hosts_for("0.0.0.0", ["pictures.example"]) == ("pictures.example",)


def test_an_address_is_never_a_rebound_name() -> None:
    """Kubernetes asks a pod by its address."""
    with serving(hosts=("pictures.example",)) as running:
        for host, status in (("pictures.example", 200), ("localhost", 421), ("127.0.0.1", 200)):
            answer = http.get(running.address + "/readyz", headers={"host": host})
            assert answer.status_code == status


# two Hosts no library sends; test_serve_connections.py sends bytes
@pytest.mark.parametrize("name", ["authorization", "content-type", "origin"])
def test_a_header_that_means_two_things_is_refused(running: Running, name: str) -> None:
    headers = [("host", "localhost"), ("authorization", "Bearer a-secret")]
    headers += [("content-type", "application/json"), ("origin", running.address)]
    headers.append((name, "localhost"))
    answer = http.post(running.address + DRAW, content=b'{"prompt": "p"}', headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "duplicate_header"


@pytest.mark.parametrize(
    ("settings", "host", "begin"),
    [
        ({"hosts": ("pictures.example",)}, "pictures.example:81", "http://pictures.example:81/"),
        ({}, "attacker.example", "http://127.0.0.1:"),
        ({"public_url": "https://p.example/x/"}, "attacker.example", "https://p.example/x/pict"),
    ],
)
def test_picture_urls_are_not_made_of_what_a_client_says(
    settings: dict, host: str, begin: str
) -> None:
    with serving(**settings) as running:
        body = {"prompt": "p", "response_format": "url"}
        answer = http.post(running.address + DRAW, json=body, headers={"host": host})
        assert answer.json()["data"][0]["url"].startswith(begin)
