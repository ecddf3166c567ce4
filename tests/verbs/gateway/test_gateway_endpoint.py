"""The bytes that are sent: targets, payloads, keys, URLs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from halftime.base.errors import BadFile, BadInput
from halftime.cli.gateway import parse_bytes, parse_headers, parse_rates
from halftime.verbs.gateway.endpoint import TARGETS, Payload, endpoint, picture, shown


def request(
    url: str, payload: Payload, target: str = "openai", **options: object
) -> tuple[str, dict, dict]:
    message = b"".join(endpoint(url, payload, target, **options).parts("0000002a"))
    head, _, body = message.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert int(headers["Content-Length"]) == len(body)
    return lines[0].split()[1], headers, json.loads(body)


@pytest.mark.parametrize("size", [256, 1000, 65536, 1_000_003])
def test_a_picture_of_exactly_the_size_that_decodes(size: int) -> None:
    data = picture(size)
    assert len(data) == size
    Image.open(io.BytesIO(data)).load()


@pytest.mark.parametrize(
    ("target", "kind", "path"),
    [
        ("openai", "chat", "/v1/chat/completions"),
        ("openai", "image-out", "/v1/images/generations"),
        ("kserve", "image-in", "/v1/v2/models/m/infer"),
        ("replicate", "chat", "/v1/v1/predictions"),
        ("fal", "image-out", "/v1/m"),
    ],
)
def test_paths_of_named_targets(target: str, kind: str, path: str) -> None:
    assert request("http://h:1/v1", Payload(kind, 1000, model="m"), target)[0] == path


def test_a_full_path_is_left_alone() -> None:
    assert request("http://h:1/v1/chat/completions", Payload())[0] == "/v1/chat/completions"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["chat", "image-in", "image-out"])
def test_every_body_carries_the_id(target: str, kind: str) -> None:
    assert "halftime-0000002a" in json.dumps(request("http://h:1", Payload(kind, 1000), target)[2])


def test_base64_or_url() -> None:
    content = request("http://h:1", Payload("image-in", 5000))[2]["messages"][0]["content"]
    data = content[1]["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert len(base64.b64decode(data)) == 5000
    content = request("http://h:1", Payload("image-in", url="http://x/y.png"))[2]["messages"][0][
        "content"
    ]
    assert content[1]["image_url"]["url"] == "http://x/y.png"


def test_keys_come_from_the_environment_in_the_targets_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    assert request("http://h:1", Payload(), key_env="A_KEY")[1]["Authorization"] == "Bearer secret"
    assert (
        request("http://h:1", Payload(), "fal", key_env="A_KEY")[1]["Authorization"] == "Key secret"
    )
    assert parse_headers(("x-a: b", "x-k: $A_KEY")) == {"x-a": "b", "x-k": "secret"}
    with pytest.raises(BadInput, match="NO_SUCH"):
        endpoint("http://h:1", Payload(), key_env="NO_SUCH")
    with pytest.raises(BadInput, match="NO_SUCH"):
        parse_headers(("x-k: $NO_SUCH",))


def test_a_shown_url_holds_no_secret() -> None:
    assert shown("https://me:pw@h:1/v1?key=abc") == "https://h:1/v1"


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text('{"text": "{id}"}')
    path, _, body = request("http://h:1/any/path", Payload(str(file)))
    assert (path, body) == ("/any/path", {"text": "halftime-0000002a"})
    with pytest.raises(BadFile, match="chat, image-in, image-out"):
        endpoint("http://h:1", Payload("no-such-file"))


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(BadInput, match="not a URL"):
        endpoint(url, Payload())


def test_bad_target_size_and_rate() -> None:
    with pytest.raises(BadInput, match="kserve"):
        endpoint("http://h:1", Payload(), "soap")
    assert [parse_bytes(text) for text in ("512", "64KB", "1MiB", "8 MB")] == [
        512,
        64_000,
        1024**2,
        8_000_000,
    ]
    assert parse_rates("20, 100") == (20.0, 100.0)
    for text in ("x", "-1KB", "1.5MB"):
        with pytest.raises(BadInput):
            parse_bytes(text)
    for text in ("a", "0", "20,-1"):
        with pytest.raises(BadInput):
            parse_rates(text)
