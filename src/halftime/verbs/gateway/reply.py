"""What an answer says: whether it is one at all, and what makes two answers alike.

A gateway that redirects to a login page, answers 200 with an error or ends a stream half way is
fast. Each answer is therefore read after its last byte is stamped, which is in nobody's time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

# the id of the request, where an upstream that knows it, such as the mock, puts it into its answer
_MARK = re.compile(r"halftime-?([0-9a-f]{8})")
_MARKED_WITHIN = 4096  # characters from the front: pictures are long
_DONE = b"[DONE]"
_PENDING = {
    # word -> whether the job runs by now
    "starting": False,
    "processing": True,
    "IN_QUEUE": False,
    "IN_PROGRESS": True,
}
_ENDED_BADLY = ("failed", "canceled", "aborted", "FAILED", "ERROR")
Value = Mapping[str, object]


class Expected(NamedTuple):
    """What was asked for."""

    target: str = "openai"
    kind: str = "chat"  # a payload's kind; a file's name where that was sent
    stream: bool = False


class Reply(NamedTuple):
    """One answer, read. `error` says in a few words why it is none; the same fault, the same words,
    since they are counted."""

    error: str = ""
    streamed: bool = False
    keys: frozenset[str] = frozenset()  # of the answer, or of all events of a stream
    finished: bool = False  # with [DONE]
    events: int = 0
    first_text: int = 0  # bytes of a stream until its first text is whole; 0 where not known
    size: int = 0  # characters of its text or picture
    digest: int = 0  # of them, without the request's id
    mark: str = ""  # the id of the request that it answers
    identity: str = ""  # the upstream's own id of it
    model: str = ""
    tokens: int = 0
    encoding: str = ""
    state: str = ""  # of a job that is not done: its own word
    running: bool = False
    follow: str = ""  # the URL to ask next


NO_REPLY = Reply()


def read(expected: Expected, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """An answer with its headers in lower case; never raises for what it holds."""
    refusal = _by_status(status, headers) or ("" if body else f"{status} without an answer")
    if refusal:
        return Reply(refusal)
    encoding = headers.get("content-encoding", "").strip().lower()
    plain = _decoded(body, encoding)
    if plain is None:
        return Reply(f"{encoding}-encoded, which was not asked for")
    if _is_html(plain, headers):
        return Reply("an HTML page")
    if _is_events(expected, plain, headers):
        return _events(expected, plain)._replace(encoding=encoding)
    return _whole(expected, plain)._replace(encoding=encoding)


def _by_status(status: int, headers: Mapping[str, str]) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400 and "location" in headers:
        # without its query, which may hold keys
        return f"{status} to {urlsplit(headers['location']).path or '/'}"
    return str(status)


def _decoded(body: bytes, encoding: str) -> bytes | None:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    try:
        return zlib.decompress(body, 47 if "gzip" in encoding else 15)  # 47: with a gzip header
    except zlib.error:
        return None


def _is_html(body: bytes, headers: Mapping[str, str]) -> bool:
    start = body[:64].lstrip().lower()
    return "text/html" in headers.get("content-type", "") or start.startswith(
        (b"<!doctype html", b"<html")
    )


def _is_events(expected: Expected, body: bytes, headers: Mapping[str, str]) -> bool:
    """By its type, or, where a stream was asked for, by what it looks like: clients read on."""
    if "text/event-stream" in headers.get("content-type", ""):
        return True
    return expected.stream and body.lstrip().startswith((b"data:", b"event:", b":"))


def _whole(expected: Expected, body: bytes) -> Reply:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, msgspec.DecodeError):
        if _is_other_file(expected):
            return Reply(size=len(body), digest=zlib.crc32(body))
        return Reply(_not_json(expected, body))
    if not isinstance(value, dict):
        return Reply(size=len(body)) if _is_other_file(expected) else Reply("not a JSON object")
    if error := _error_in(value):
        return Reply(error)
    if pending := _pending(value):
        return pending
    error, content = _CONTENTS.get(expected.target, _any_content)(value, expected)
    if not error and _stream_is_due(expected):
        error = "not a stream"
    return _reply(error, content, value)


def _not_json(expected: Expected, body: bytes) -> str:
    if body.lstrip()[:1] not in (b"{", b"["):
        return "not JSON"
    # one value after the other, as some services stream
    return "not a stream" if _stream_is_due(expected) else "JSON cut short"


def _is_other_file(expected: Expected) -> bool:
    """A body from a file may ask for anything: what comes back need not be JSON."""
    return expected.kind not in ("chat", "image-in", "image-out")


def _stream_is_due(expected: Expected) -> bool:
    return expected.stream and expected.target == "openai" and expected.kind in ("chat", "image-in")


def _error_in(value: Value) -> str:
    error = value.get("error")
    if error:
        kind = error.get("code") or error.get("type") if isinstance(error, dict) else None
        return "200 with an error" + (f" ({str(kind)[:40]})" if kind else "")
    if value.get("status") in _ENDED_BADLY:
        return f"a job that {str(value['status']).lower()}"
    if set(value) == {"detail"} or set(value) == {"message"}:
        return "200 with an error"
    return ""


def _pending(value: Value) -> Reply | None:
    """A job that is not done: Replicate's predictions, fal's queue."""
    state = value.get("status")
    if state not in _PENDING and not (state == "COMPLETED" and value.get("response_url")):
        return None
    state, urls = str(state), value.get("urls")
    follow = value.get("status_url") or (urls.get("get") if isinstance(urls, dict) else None)
    if state == "COMPLETED":
        follow = value["response_url"]
    if not follow:
        return Reply(f"a job that is {state.lower()}, without a URL to follow it by")
    return Reply(state=state, running=_PENDING.get(state, True), follow=str(follow))


def _reply(error: str, content: str, value: Value, events: int = 0) -> Reply:
    front = content[:_MARKED_WITHIN]
    match = _MARK.search(front)
    masked = _MARK.sub("halftime", front).encode()
    usage = value.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(
        error=error,
        keys=_keys(value),
        events=events,
        size=len(content),
        digest=zlib.crc32(content[_MARKED_WITHIN:].encode(), zlib.crc32(masked)),
        mark=match[1] if match else "",
        identity=str(value.get("id") or ""),
        model=str(value.get("model") or ""),
        tokens=tokens if isinstance(tokens, int) else 0,
    )


def _keys(value: Value) -> frozenset[str]:
    """Its fields, and those of its first choice that are not empty."""
    choice = {f"choices.{name}" for name, item in _choice(value).items() if item is not None}
    return frozenset(value) | choice


# What an answer of each family holds: an error in a few words, or the text or picture


def _openai(value: Value, expected: Expected) -> tuple[str, str]:
    if expected.kind == "image-out":
        return _first_string(value.get("data"), ("b64_json", "url"), "no pictures")
    if _is_other_file(expected):
        return _any_content(value, expected)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        return "no choices", ""
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        return "a choice without a message", ""
    text = _text(message.get("content"))
    return ("" if text or message.get("tool_calls") else "an empty message"), text


def _text(content: object) -> str:
    """Of a message: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _first_string(items: object, names: Sequence[str], missing: str) -> tuple[str, str]:
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        return missing, ""
    values = [items[0].get(name) for name in names]
    text = next((value for value in values if isinstance(value, str) and value), "")
    return ("" if text else missing), text


def _kserve(value: Value, _: Expected) -> tuple[str, str]:
    outputs = value.get("outputs")
    if not isinstance(outputs, list) or not outputs or not isinstance(outputs[0], dict):
        return "no outputs", ""
    data = outputs[0].get("data")
    if not isinstance(data, list) or not data:
        return "an output without data", ""
    return "", str(data[0])


def _replicate(value: Value, _: Expected) -> tuple[str, str]:
    output = value.get("output")
    if output in (None, "", []):
        return "no output", ""
    return "", "".join(map(str, output)) if isinstance(output, list) else str(output)


def _any_content(value: Value, _: Expected) -> tuple[str, str]:
    return ("" if value else "an empty object"), _longest(value)


def _longest(value: object) -> str:
    """The longest string within: a text or a picture, whatever its place."""
    if isinstance(value, str):
        return value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max(map(_longest, items), key=len, default="")


_CONTENTS = {"openai": _openai, "kserve": _kserve, "replicate": _replicate}


# Streams


def _events(expected: Expected, body: bytes) -> Reply:
    texts: list[str] = []
    values: list[Value] = []
    finished, first_text = False, 0
    for name, data in _server_sent(body):
        if data.strip() == _DONE:
            finished = True
            continue
        try:
            value = msgspec.json.decode(data)
        except (ValueError, msgspec.DecodeError):
            if expected.target == "openai":
                return Reply("a broken event", streamed=True)
            texts.append(data.decode("utf-8", "replace"))
            continue
        if name == "error" or (isinstance(value, dict) and value.get("error")):
            return Reply("an error event", streamed=True)
        if isinstance(value, dict):
            values.append(value)
            texts.append(_delta(value))
            if texts[-1] and not first_text:
                first_text = max(0, body.find(data)) + len(data)
    if not values and not any(texts):
        return Reply("a stream without an event", streamed=True)
    if _stream_is_due(expected) and not any(texts) and not _calls_tools(values):
        return Reply("an empty message", streamed=True)
    return _stream_reply(values, texts, finished)._replace(first_text=first_text)


def _stream_reply(values: Sequence[Value], texts: Sequence[str], finished: bool) -> Reply:
    keys = frozenset[str]().union(*map(_keys, values))
    first: Value = values[0] if values else {}
    usage = next((value["usage"] for value in reversed(values) if value.get("usage")), None)
    reply = _reply("", "".join(texts), {**first, "usage": usage})
    events = sum(map(bool, texts))
    return reply._replace(
        streamed=True,
        keys=keys,
        finished=finished,
        events=events,
        tokens=reply.tokens or events,
    )


def _choice(value: Value) -> Value:
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _delta_keys(value: Value) -> list[str]:
    delta = _choice(value).get("delta")
    return list(delta) if isinstance(delta, dict) else []


def _delta(value: Value) -> str:
    """The text, or the picture, that an event brings."""
    delta = _choice(value).get("delta")
    if isinstance(delta, dict):
        return _text(delta.get("content"))
    picture = value.get("b64_json")
    return picture if isinstance(picture, str) else ""


def _calls_tools(values: Sequence[Value]) -> bool:
    return any("tool_calls" in _delta_keys(value) for value in values)


def _server_sent(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and data of each event (WHATWG HTML, server-sent events)."""
    for block in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        name, data = "", []
        for line in block.splitlines():
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.strip().decode("latin-1")
        if data:
            yield name, b"\n".join(data)
