"""What is an answer and what is none, by its status, headers and body alone."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.reply import Expected, read

JSON = {"content-type": "application/json"}
CHAT_WAS_ASKED = Expected()
EVENTS = {"content-type": "text/event-stream"}
CHAT = {
    "id": "c1",
    "model": "m",
    "choices": [{"message": {"role": "assistant", "content": "halftime-0000002a and more"}}],
    "usage": {"completion_tokens": 7},
}


def delta(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def error_of(
    value: object, expected: Expected = CHAT_WAS_ASKED, status: int = 200, headers: dict = JSON
) -> str:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read(expected, status, headers, body).error


def test_a_whole_answer_is_read() -> None:
    reply = read(Expected(), 200, JSON, json.dumps(CHAT).encode())
    assert (reply.error, reply.mark, reply.model, reply.identity) == ("", "0000002a", "m", "c1")
    assert (reply.tokens, reply.size) == (7, 26)
    other = json.dumps(CHAT).replace("0000002a", "0000002b").encode()
    assert read(Expected(), 200, JSON, other).digest == reply.digest  # but for the request's id
    assert read(Expected(), 200, JSON, other.replace(b"more", b"less")).digest != reply.digest


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"error": {"message": "no", "code": "quota"}}, "200 with an error (quota)"),
        ({"error": "overloaded"}, "200 with an error"),
        ({"detail": "not found"}, "200 with an error"),
        ({"message": "Internal"}, "200 with an error"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": [{}]}, "a choice without a message"),
        ({"choices": [{"message": {"content": ""}}]}, "an empty message"),
        ({"choices": [{"message": {"content": None}}]}, "an empty message"),
        ([], "not a JSON object"),
        (b'{"choices": [{"mess', "JSON cut short"),
        (b"upstream connect error", "not JSON"),
        (b"<!DOCTYPE html><p>", "an HTML page"),
        (b"", "200 without an answer"),
    ],
)
def test_what_is_no_answer_though_it_is_200(value: object, error: str) -> None:
    assert error_of(value) == error


def test_answers_that_look_odd_and_are_fine() -> None:
    assert error_of({"error": None, **CHAT}) == ""
    tools = {"choices": [{"message": {"content": None, "tool_calls": [{"id": "a"}]}}]}
    assert error_of(tools) == ""
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "a"}]}}]}
    assert error_of(parts) == ""


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (302, {"location": "https://sso.example/login?token=secret"}, "302 to /login"),
        (307, {"location": "/v2/"}, "307 to /v2/"),
        (304, {}, "304"),
        (502, {}, "502"),
        (204, {}, "204 without an answer"),
    ],
)
def test_statuses(status: int, headers: dict, error: str) -> None:
    assert error_of(b"", status=status, headers=headers) == error


@pytest.mark.parametrize(
    ("expected", "value", "error"),
    [
        (Expected("openai", "image-out"), {"data": []}, "no pictures"),
        (Expected("openai", "image-out"), {"data": [{"b64_json": ""}]}, "no pictures"),
        (Expected("openai", "image-out"), {"data": [{"url": "http://x"}]}, ""),
        (Expected("kserve"), {"outputs": []}, "no outputs"),
        (Expected("kserve"), {"outputs": [{"data": []}]}, "an output without data"),
        (Expected("replicate"), {"status": "succeeded", "output": None}, "no output"),
        (Expected("replicate"), {"status": "failed", "error": None}, "a job that failed"),
        (Expected("replicate"), {"status": "starting"}, "a job that is starting, without a URL"),
        (Expected("fal"), {"images": [{"url": "data:"}]}, ""),
        (Expected("fal"), {}, "an empty object"),
        (Expected(stream=True), CHAT, "not a stream"),
    ],
)
def test_families(expected: Expected, value: object, error: str) -> None:
    found = error_of(value, expected)
    assert found.startswith(error)
    assert bool(found) == bool(error)


def test_a_file_may_ask_for_anything() -> None:
    assert error_of(b"plain text", Expected("openai", "body.json"), headers={}) == ""
    assert error_of({"answer": 1}, Expected("openai", "body.json")) == ""
    assert error_of({"error": "x"}, Expected("openai", "body.json")) == "200 with an error"


STREAM = Expected(stream=True)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (delta("a") + b"data: [DONE]\n\n", ""),
        (delta("a"), ""),  # some servers never send it: the direct arm decides
        (delta("a") + b'data: {"error": {"message": "x"}}\n\n', "an error event"),
        (delta("a") + b'event: error\ndata: {"code": 1}\n\n', "an error event"),
        (delta("a") + b'data: {"choi\n\n', "a broken event"),
        (b": ping\n\n", "a stream without an event"),
        (b"data: [DONE]\n\n", "a stream without an event"),
        (b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n', "an empty message"),
    ],
)
def test_streams(body: bytes, error: str) -> None:
    assert error_of(body, STREAM, headers=EVENTS) == error


@given(st.permutations(["ab", "cd", "ef", "gh"]))
def test_the_order_of_chunks_counts(order: list[str]) -> None:
    def digest(parts: list[str]) -> int:
        return read(STREAM, 200, EVENTS, b"".join(map(delta, parts))).digest

    plain = ["ab", "cd", "ef", "gh"]
    assert (digest(order) == digest(plain)) == (order == plain)


def test_a_stream_is_measured() -> None:
    body = delta("halftime-0000002a") + delta("b") + b"data: [DONE]\n\n"
    reply = read(STREAM, 200, EVENTS, body)
    assert (reply.streamed, reply.finished, reply.events, reply.tokens) == (True, True, 2, 2)
    assert reply.mark == "0000002a"
    assert read(STREAM, 200, EVENTS, body.replace(b"\n", b"\r\n")).digest == reply.digest


def test_events_that_a_gateway_cuts_anew_are_the_same_text() -> None:
    """As LiteLLM does: a role in each event, an event of its own for the end, other ids."""
    plain = delta("halftime-0000002a ab") + delta("cd") + b"data: [DONE]\n\n"
    anew = b"".join(
        b"data: " + json.dumps({"id": "x", "choices": [{"delta": piece}]}).encode() + b"\n\n"
        for piece in (
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "halftime-0000002b abc"},
            {"role": "assistant", "content": "d"},
            {},
        )
    )
    first, second = (
        read(STREAM, 200, EVENTS, body) for body in (plain, anew + b"data: [DONE]\n\n")
    )
    assert second.error == ""
    assert (first.digest, first.size) == (second.digest, second.size)


def test_a_stream_of_another_type_is_read_all_the_same() -> None:
    body = b": ping\n\n" + delta("a") + b"data:[DONE]\n\n"
    reply = read(STREAM, 200, {"content-type": "text/plain"}, body)
    assert (reply.error, reply.streamed, reply.finished) == ("", True, True)


def test_blanks_before_an_answer_keep_it_alive() -> None:
    assert error_of(b"\n \n" + json.dumps(CHAT).encode()) == ""


def test_encodings() -> None:
    body = json.dumps(CHAT).encode()
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}
    for encoding, data in packed.items():
        reply = read(Expected(), 200, JSON | {"content-encoding": encoding}, data)
        assert (reply.error, reply.encoding, reply.mark) == ("", encoding, "0000002a")
    cut = read(Expected(), 200, JSON | {"content-encoding": "gzip"}, packed["gzip"][:20])
    assert cut.error
    other = read(Expected(), 200, JSON | {"content-encoding": "br"}, b"x")
    assert other.error == "br-encoded, which was not asked for"


@given(st.binary(max_size=60), st.sampled_from([JSON, EVENTS, {}]))
def test_no_bytes_raise(body: bytes, headers: dict) -> None:
    for expected in (Expected(), STREAM, Expected("fal"), Expected("kserve", "image-in")):
        read(expected, 200, headers, body)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_may_end_its_lines_in_three_ways(end: bytes) -> None:
    """WHATWG HTML, 9.2.6."""
    body = (delta("a") + b": a comment\n\n" + delta("b") + b"data: [DONE]\n\n").replace(b"\n", end)
    reply = read(Expected(stream=True), 200, EVENTS, body)
    assert (reply.error, reply.events, reply.size, reply.finished) == ("", 2, 2, True)


def test_json_lines_are_no_stream() -> None:
    lines = b'{"a": 1}\n{"a": 2}\n'
    assert error_of(lines, Expected(stream=True)) == "not a stream"
    assert error_of(lines) == "JSON cut short"


def test_what_a_choice_has_is_one_of_an_answers_keys() -> None:
    choices = [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": None}]
    reply = read(Expected(), 200, JSON, json.dumps({"choices": choices}).encode())
    assert reply.keys == {"choices", "choices.message", "choices.finish_reason"}


def test_a_stream_is_counted_from_its_first_text() -> None:
    role = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    reply = read(Expected(stream=True), 200, EVENTS, role + delta("a") + delta("b"))
    assert reply.first_text == len(role + delta("a")) - 2  # its empty line is not waited for
    sample = Sample("", "through", 0.0, first_chunk=1.0, reply=reply)
    sample.chunks, sample.until = [1.0, 2.0, 3.0], [len(role), len(role) + 5, 10_000]
    sample.begin_with_text()
    assert sample.first_chunk == 3.0  # five bytes of it are no text yet
    sample.reply = reply._replace(encoding="gzip")  # whose bytes are others
    sample.first_chunk = 1.0
    sample.begin_with_text()
    assert sample.first_chunk == 1.0
