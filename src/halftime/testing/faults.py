"""The planted faults: what each does, how much of it, and what must be said of a gateway with it.

`finding` is the finding of `halftime gateway` that names the fault; `refusal` is a part of the
sentence that a verdict of 'no' gives as its reason, where the gateway did not do its job.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from halftime.testing.passage import EVENTS_HEAD, Passage, chunk
from halftime.verbs.gateway.extra import load_ca_bundle
from halftime.verbs.gateway.timer import now

Act = Callable[[Passage], Awaitable[None]]
_ERROR = {"error": {"message": "planted", "type": "server_error", "code": "planted"}}
_LOGIN = b"<!doctype html><title>Log in</title><form action=/login></form>"
_DONE = b"data: [DONE]"
_LENGTH = re.compile(rb"(?i)(content-length: *)\d+")


@dataclass(frozen=True)
class PlantedFault:
    """One fault. Amounts can be set where it has them."""

    does: str
    act: Act
    finding: str = ""
    refusal: str = ""
    stream: bool = False  # it shows in streamed answers alone
    picture: bool = False  # it shows in requests with a picture
    seconds: float = 0.0
    share: float = 1.0  # of the requests
    at_once: int = 2**30  # requests that it lets into the upstream
    early: bool = False  # it answers when a request's head is there

    @property
    def does_its_job(self) -> bool:
        """Whether the gateway is slow or odd at most, rather than wrong."""
        return not self.refusal


async def _as_sent(passage: Passage) -> bytes:
    """The upstream's answer in full, as it was sent."""
    return b"".join([arrival.raw async for arrival in passage.answer()])


async def _answer_value(passage: Passage) -> dict[str, Any]:
    """What the upstream's JSON answer holds."""
    _, body = await passage.whole_answer()
    value: dict[str, Any] = json.loads(body)
    return value


async def _ask_otherwise(passage: Passage, pattern: bytes, replacement: bytes) -> None:
    """Forward the request with another body, and the answer as it comes."""
    head, _, body = passage.request.partition(b"\r\n\r\n")
    changed = re.sub(pattern, replacement, body)
    head = _LENGTH.sub(rb"\g<1>%d" % len(changed), head)
    async for arrival in passage.answer(head + b"\r\n\r\n" + changed):
        passage.write(arrival.raw)


# What takes time


async def _hold_request(passage: Passage) -> None:
    await passage.hold()
    await passage.passing()


async def _hold_answer(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    await passage.hold()
    passage.write(head + b"\r\n\r\n" + body)


async def _hold_first_chunk(passage: Passage) -> None:
    """Those that come meanwhile wait with it; later ones pass."""
    held: list[bytes] | None = []
    release: asyncio.Task[None] | None = None

    async def let_pass() -> None:
        nonlocal held
        await passage.hold()
        passage.write(b"".join(held or ()))
        held = None

    async for arrival in passage.answer():
        release = release or asyncio.create_task(let_pass())
        if held is None:
            passage.write(arrival.raw)
        else:
            held.append(arrival.raw)
    if release:
        await release


async def _hold_each_chunk(passage: Passage) -> None:
    """Each by the same time: the stream keeps its pace."""
    await _write_later(passage, in_turn=False)


async def _pace_chunks(passage: Passage) -> None:
    """One after the other: a stream of a faster pace falls behind."""
    await _write_later(passage, in_turn=True)


async def _write_later(passage: Passage, in_turn: bool) -> None:
    proxy, moment = passage.proxy, 0.0
    waits: list[asyncio.Task[None]] = []

    async def let_pass(data: bytes, arrived: float, when: float) -> None:
        await proxy.timer.sleep_until(when)
        proxy.holds.append(now() - arrived)
        passage.write(data)

    async for arrival in passage.answer():
        arrived = now()
        moment = (max(arrived, moment) if in_turn else arrived) + proxy.seconds
        waits.append(asyncio.create_task(let_pass(arrival.raw, arrived, moment)))
    await asyncio.gather(*waits)


async def _buffer_stream(passage: Passage) -> None:
    passage.write(await _as_sent(passage))


async def _stall_stream(passage: Passage) -> None:
    count = 0
    async for arrival in passage.answer():
        count += 1
        if count == 4:
            await passage.hold()
        passage.write(arrival.raw)


async def _merge_chunks(passage: Passage) -> None:
    held: list[bytes] = []
    async for arrival in passage.answer():
        held.append(arrival.raw)
        if len(held) == 4:
            passage.write(b"".join(held))
            held.clear()
    passage.write(b"".join(held))


async def _new_connection(passage: Passage) -> None:
    passage.disconnect()
    await passage.passing()


async def _new_connection_and_hold(passage: Passage) -> None:
    passage.disconnect()
    await _hold_request(passage)


async def _new_client(passage: Passage) -> None:
    passage.disconnect()
    load_ca_bundle()
    await passage.passing()


async def _limit_concurrency(passage: Passage) -> None:
    async with passage.proxy.gate:
        await passage.passing()


async def _serve_one_by_one(passage: Passage) -> None:
    async with passage.proxy.gate:
        await passage.hold()
    await passage.passing()


async def _slow_down(passage: Passage) -> None:
    await passage.proxy.hold(passage.number * passage.proxy.seconds)
    await passage.passing()


async def _compute(passage: Passage) -> None:
    deadline = time.thread_time() + passage.proxy.seconds
    while time.thread_time() < deadline:
        pass
    await passage.passing()


async def _wake_late(passage: Passage) -> None:
    if passage.number == 0:
        await passage.hold()
    await passage.passing()


async def _close_after_each(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    passage.write(head + b"\r\nConnection: close\r\n\r\n" + body)
    passage.close()


async def _dribble(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    answer, size = head + b"\r\n\r\n" + body, 64
    for start in range(0, len(answer), size):
        passage.write(answer[start : start + size])
        await passage.hold()


async def _understate(passage: Passage) -> None:
    await passage.hold()
    head, body = await passage.whole_answer()
    line = f"x-litellm-overhead-duration-ms: {1e3 * passage.proxy.seconds / 5:.3f}"
    passage.write(head + f"\r\n{line}\r\n\r\n".encode() + body)


# What is odd, and still an answer


async def _send_early_hints(passage: Passage) -> None:
    passage.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    await passage.passing()


async def _send_processing(passage: Passage) -> None:
    for line in (b"100 Continue", b"102 Processing"):
        passage.write(b"HTTP/1.1 " + line + b"\r\n\r\n")
    await passage.passing()


async def _compress(passage: Passage) -> None:
    _, body = await passage.whole_answer()
    passage.write_answer(
        "200 OK",
        gzip.compress(body),
        "Content-Type: application/json",
        "Content-Encoding: gzip",
    )


async def _double(passage: Passage) -> None:
    await passage.whole_answer()
    await passage.passing()


async def _strip_usage(passage: Passage) -> None:
    value = await _answer_value(passage)
    value.pop("usage", None)
    passage.write_json("200 OK", value)


async def _shrink_picture(passage: Passage) -> None:
    await _ask_otherwise(passage, rb"(base64,[A-Za-z0-9+/]{400})[A-Za-z0-9+/=]+", rb"\1")


async def _hold_within_head(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    start, _, fields = head.partition(b"\r\n")
    passage.write(start + b"\r\n")
    await passage.hold()
    passage.write(fields + b"\r\n\r\n" + body)


async def _name_another_model(passage: Passage) -> None:
    passage.write_json("200 OK", await _answer_value(passage) | {"model": "tiny"})


async def _drop_finish_reason(passage: Passage) -> None:
    value = await _answer_value(passage)
    del value["choices"][0]["finish_reason"]
    passage.write_json("200 OK", value)


async def _add_prompt(passage: Passage) -> None:
    prompt = json.dumps({"role": "system", "content": "Be kind. " * 100}).encode()
    await _ask_otherwise(passage, rb'("messages": *\[)', rb"\1" + prompt + b", ")


# What is odd, and right


async def _reformat(passage: Passage) -> None:
    """Other blanks, another order, fields and an id of its own, an empty line after it."""
    value = await _answer_value(passage) | {"id": "gateway-1", "provider": {"region": "x"}}
    body = json.dumps(dict(sorted(value.items(), reverse=True)), indent=2).encode() + b"\r\n"
    passage.write_answer("200 OK", body, "Content-Type: application/json; charset=utf-8")


async def _announce_upgrade(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    lines = b"\r\nUpgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n\r\n"
    passage.write(head + lines + body)


async def _end_lines_with_lf(passage: Passage) -> None:
    head, body = await passage.whole_answer()
    passage.write((head + b"\r\n\r\n").replace(b"\r\n", b"\n") + body)


async def _send_trailers(passage: Passage) -> None:
    """Chunked, with an extension to a chunk and a field after the body."""
    head, body = await passage.whole_answer()
    lines = [line for line in head.split(b"\r\n") if not _LENGTH.match(line)]
    chunks = chunk(body).replace(b"\r\n", b";signed=no\r\n", 1) + b"0\r\nX-Sum: 1\r\n\r\n"
    passage.write(b"\r\n".join([*lines, b"Transfer-Encoding: chunked\r\n\r\n"]) + chunks)


async def _say_done_twice(passage: Passage) -> None:
    async def events() -> AsyncIterator[bytes]:
        async for event in passage.each_event():
            yield event * 2 if event.startswith(_DONE) else event

    await _write_each(passage, events())


async def _comment_stream(passage: Passage) -> None:
    """With keep-alives, names and ids of events, and lines that end with CRLF."""

    async def events() -> AsyncIterator[bytes]:
        yield b": keep-alive\r\n\r\n"
        async for event in passage.each_event():
            yield b"id: 1\r\nevent: message\r\n" + event.replace(b"\n", b"\r\n")

    await _write_each(passage, events())


async def _begin_at_once(passage: Passage) -> None:
    """With an event that has no text, before there is an answer."""
    start = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}

    async def events() -> AsyncIterator[bytes]:
        yield b"data: " + json.dumps(start).encode() + b"\n\n"
        async for event in passage.each_event():
            yield event

    await _write_each(passage, events())


async def _cut_chunks_anew(passage: Passage) -> None:
    """Without regard to where an event begins or ends."""

    async def pieces() -> AsyncIterator[bytes]:
        async for event in passage.each_event():
            for start in range(0, len(event), 50):
                yield event[start : start + 50]

    await _write_each(passage, pieces())


async def _write_each(passage: Passage, pieces: AsyncIterator[bytes]) -> None:
    passage.write(EVENTS_HEAD)
    async for piece in pieces:
        passage.write(chunk(piece))
    passage.write(b"0\r\n\r\n")


# What is no answer


async def _redirect(passage: Passage) -> None:
    passage.write_answer("302 Found", b"", "Location: https://sso.example/login?from=/v1&token=x")


async def _login_page(passage: Passage) -> None:
    passage.write_answer("200 OK", _LOGIN, "Content-Type: text/html; charset=utf-8")


async def _error_with_200(passage: Passage) -> None:
    passage.write_json("200 OK", _ERROR)


async def _fail(passage: Passage) -> None:
    passage.write_answer("502 Bad Gateway", b"")


async def _limit_rate(passage: Passage) -> None:
    passage.write_json("429 Too Many Requests", _ERROR, "Retry-After: 1")


async def _no_content(passage: Passage) -> None:
    passage.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def _no_choices(passage: Passage) -> None:
    passage.write_json("200 OK", await _answer_value(passage) | {"choices": []})


async def _cache(passage: Passage) -> None:
    """The first answer to everybody, whatever they ask."""
    memory = passage.proxy.memory
    if not memory:
        memory.append(await _as_sent(passage))
    passage.write(memory[0])


async def _answer_by_itself(passage: Passage) -> None:
    """Like the upstream's, for the very request, and without asking it."""
    memory = passage.proxy.memory
    if not memory:
        memory.append(await _as_sent(passage))
        return passage.write(memory[0])
    mark = re.search(rb"halftime-[0-9a-f]{8}", passage.request)
    passage.write(re.sub(rb"halftime-[0-9a-f]{8}", mark[0] if mark else b"", memory[0]))
    return None


async def _cache_later(passage: Passage) -> None:
    """It has warmed up by then."""
    if passage.number >= 8:
        return await _answer_by_itself(passage)
    return await passage.passing()


async def _rewrite_prompt(passage: Passage) -> None:
    """As one that hides what looks like a number of somebody's."""
    await _ask_otherwise(passage, rb"(halftime-)[0-9a-f]{8}", rb"\1********")


async def _switch_protocol(passage: Passage) -> None:
    passage.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    )


async def _announce_less(passage: Passage) -> None:
    """The rest stands before the next answer."""
    _, body = await passage.whole_answer()
    passage.write_answer("200 OK", body, "Content-Type: application/json", length=len(body) - 10)


async def _stream_json_lines(passage: Passage) -> None:
    events = await passage.events()
    lines = b"".join(event[6:].strip() + b"\n" for event in events[:-1])
    passage.write_answer("200 OK", lines, "Content-Type: application/x-ndjson")


async def _repeat_last_chunk(passage: Passage) -> None:
    events = await passage.events()
    passage.write_events([*events[:-1], *events[-2:]])


async def _cross(passage: Passage) -> None:
    """Each request gets the answer to the one before it."""
    memory = passage.proxy.memory
    memory.append(await _as_sent(passage))
    passage.write(memory[-2] if len(memory) > 1 else memory[-1])


async def _cut_body(passage: Passage) -> None:
    """Half of what it announces, then the connection ends."""
    head, body = await passage.whole_answer()
    passage.write(head + b"\r\n\r\n" + body[: len(body) // 2])
    passage.close()


async def _cut_body_quietly(passage: Passage) -> None:
    """Half of it, announced as if it were everything."""
    head, body = await passage.whole_answer()
    half = body[: len(body) // 2]
    passage.write(_LENGTH.sub(rb"\g<1>%d" % len(half), head) + b"\r\n\r\n" + half)


async def _announce_more(passage: Passage) -> None:
    """The connection stays open for bytes that never come."""
    _, body = await passage.whole_answer()
    passage.write_answer("200 OK", body, "Content-Type: application/json", length=len(body) + 100)


async def _shorten_text(passage: Passage) -> None:
    value = await _answer_value(passage)
    message = value["choices"][0]["message"]
    message["content"] = message["content"][: len(message["content"]) // 3]
    passage.write_json("200 OK", value)


async def _rewrite_model(passage: Passage) -> None:
    await _ask_otherwise(passage, rb'("model": *)"[^"]*"', rb'\1"tiny"')


async def _refuse_early(passage: Passage) -> None:
    """Before the body of the request was read."""
    passage.write_answer("413 Content Too Large", b"", "Connection: close")
    passage.close()


async def _answer_twice(passage: Passage) -> None:
    answer = await _as_sent(passage)
    passage.write(answer + answer)


async def _hang(passage: Passage) -> None:
    await passage.reader.read(1)  # until the client leaves
    passage.close()


async def _drop(passage: Passage) -> None:
    passage.close()


async def _speak_gibberish(passage: Passage) -> None:
    passage.write(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18)
    passage.close()


async def _die(passage: Passage) -> None:
    passage.proxy.stop()


async def _whole_for_stream(passage: Passage) -> None:
    """As a gateway that does not know how to stream."""
    events = await passage.events()
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-1]]
    text = "".join(delta.get("content", "") for delta in deltas)
    message = {"role": "assistant", "content": text}
    passage.write_json(
        "200 OK", {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    )


async def _without_done(passage: Passage) -> None:
    passage.write_events((await passage.events())[:-1])


async def _cut_stream(passage: Passage) -> None:
    """HTTP's end of the chunks does not come either."""
    events = await passage.events()
    passage.write_events(events[: len(events) // 2], end=b"")
    passage.close()


async def _end_stream_early(passage: Passage) -> None:
    """Well-formed: the last half of the text is missing."""
    events = await passage.events()
    passage.write_events([*events[: len(events) // 2], events[-1]])


async def _error_event(passage: Passage) -> None:
    events = await passage.events()
    error = b"data: " + json.dumps(_ERROR).encode() + b"\n\n"
    passage.write_events([*events[:2], error, events[-1]])


async def _repeat_chunk(passage: Passage) -> None:
    events = await passage.events()
    passage.write_events([*events[:3], *events[2:]])


async def _drop_chunk(passage: Passage) -> None:
    events = await passage.events()
    passage.write_events([*events[:2], *events[3:]])


async def _swap_chunks(passage: Passage) -> None:
    events = await passage.events()
    passage.write_events([events[1], events[0], *events[2:]])


async def _reset_in_stream(passage: Passage) -> None:
    """In the middle of an event."""
    passage.write(EVENTS_HEAD)
    async for arrival in passage.answer():
        passage.write(chunk(arrival.body)[:20])
        break
    passage.close()


_OTHER_REQUEST = "the answer to another request"
FAULTS: dict[str, PlantedFault] = {
    "none": PlantedFault("passes everything on", Passage.passing),
    "holds-requests": PlantedFault(
        "holds each request", _hold_request, "request-held", seconds=0.005
    ),
    "holds-some-requests": PlantedFault(
        "holds one request in ten", _hold_request, "some-held", seconds=0.05, share=0.1
    ),
    "holds-answers": PlantedFault("holds each answer", _hold_answer, "answer-held", seconds=0.005),
    "holds-first-chunk": PlantedFault(
        "holds a stream's first chunk",
        _hold_first_chunk,
        "first-chunk-waits",
        stream=True,
        seconds=0.025,
    ),
    "holds-each-chunk": PlantedFault(
        "passes each chunk on that much later",
        _hold_each_chunk,
        "chunks-late",
        stream=True,
        seconds=0.003,
    ),
    "paces-chunks": PlantedFault(
        "holds one chunk after the other", _pace_chunks, "chunks-held", stream=True, seconds=0.025
    ),
    "buffers-streams": PlantedFault(
        "passes a stream on when it has ended", _buffer_stream, "stream-buffered", stream=True
    ),
    "merges-chunks": PlantedFault(
        "passes four chunks on at a time", _merge_chunks, "chunks-merged", stream=True
    ),
    "stalls-streams": PlantedFault(
        "stalls one stream in four at its fourth chunk",
        _stall_stream,
        "stream-stalls",
        stream=True,
        seconds=0.2,
        share=0.25,
    ),
    "new-connections": PlantedFault(
        "opens a connection for each request", _new_connection, "new-connection-per-request"
    ),
    "new-connections-and-holds": PlantedFault(
        "the same, and holds each request",
        _new_connection_and_hold,
        "request-held",
        seconds=0.006,
    ),
    "new-clients": PlantedFault(
        "the same, and loads a CA bundle for each", _new_client, "new-client-per-request"
    ),
    "serialises": PlantedFault(
        "asks the upstream one request at a time", _limit_concurrency, "serialises", at_once=1
    ),
    "limits-concurrency": PlantedFault(
        "asks the upstream two requests at a time", _limit_concurrency, "serialises", at_once=2
    ),
    "queues": PlantedFault(
        "lets one request in, then the next",
        _serve_one_by_one,
        "saturated",
        seconds=0.016,
        at_once=1,
    ),
    "slows-down": PlantedFault(
        "holds each request a little longer than the one before",
        _slow_down,
        "slows-down",
        seconds=0.0001,
    ),
    "computes": PlantedFault("works on each request", _compute, "computes", seconds=0.006),
    "wakes-late": PlantedFault(
        "holds the very first request", _wake_late, "first-request", seconds=0.4
    ),
    "closes-connections": PlantedFault(
        "closes the client's connection after each answer",
        _close_after_each,
        "closes-connections",
    ),
    "dribbles": PlantedFault(
        "answers 64 bytes at a time", _dribble, "answer-dribbles", seconds=0.002
    ),
    "understates": PlantedFault(
        "reports a fifth of what it holds", _understate, "header-differs", seconds=0.005
    ),
    "sends-early-hints": PlantedFault("sends 103 before each answer", _send_early_hints),
    "sends-processing": PlantedFault("sends 100 and 102 before each answer", _send_processing),
    "compresses": PlantedFault(
        "compresses answers without being asked to", _compress, "compressed-unasked"
    ),
    "doubles-requests": PlantedFault("asks the upstream twice", _double, "extra-upstream-calls"),
    "doubles-some-requests": PlantedFault(
        "asks the upstream twice, for one request in five",
        _double,
        "extra-upstream-calls",
        share=0.2,
    ),
    "strips-usage": PlantedFault("leaves the usage out of answers", _strip_usage, "answers-differ"),
    "drops-finish-reasons": PlantedFault(
        "leaves the finish_reason out of answers", _drop_finish_reason, "answers-differ"
    ),
    "names-another-model": PlantedFault(
        "puts another model's name into answers", _name_another_model, "model-differs"
    ),
    "adds-prompts": PlantedFault("puts a prompt before the user's", _add_prompt, "requests-grown"),
    "holds-within-heads": PlantedFault(
        "holds each answer after its first line", _hold_within_head, "answer-held", seconds=0.01
    ),
    "reformats": PlantedFault("writes the same answer in other JSON", _reformat),
    "announces-upgrades": PlantedFault("says that it could speak HTTP/2, too", _announce_upgrade),
    "ends-lines-with-lf": PlantedFault("ends header lines with LF alone", _end_lines_with_lf),
    "sends-trailers": PlantedFault("sends a field after each body", _send_trailers),
    "says-done-twice": PlantedFault("ends streams twice", _say_done_twice, stream=True),
    "comments-streams": PlantedFault(
        "puts keep-alives, names and ids into streams", _comment_stream, stream=True
    ),
    "begins-at-once": PlantedFault(
        "begins each stream with an empty event", _begin_at_once, stream=True
    ),
    "cuts-chunks-anew": PlantedFault(
        "cuts streams into chunks anew, within events", _cut_chunks_anew, stream=True
    ),
    "shrinks-pictures": PlantedFault(
        "cuts the picture out of requests", _shrink_picture, "requests-shrunk", picture=True
    ),
    "redirects": PlantedFault("redirects to a login page", _redirect, "errors", "302 to /login"),
    "login-page": PlantedFault("answers 200 with a login page", _login_page, "errors", "HTML"),
    "errors-with-200": PlantedFault(
        "answers 200 with an error", _error_with_200, "errors", "200 with an error"
    ),
    "fails-some": PlantedFault(
        "answers 502 to one request in ten", _fail, "errors", "502", share=0.1
    ),
    "limits-rate": PlantedFault(
        "answers 429 with Retry-After to every second request",
        _limit_rate,
        "errors",
        "429",
        share=0.5,
    ),
    "no-content": PlantedFault("answers 204 without a body", _no_content, "errors", "204"),
    "no-choices": PlantedFault("answers with an empty list", _no_choices, "errors", "no choices"),
    "caches": PlantedFault(
        "gives the first answer to every prompt", _cache, "errors", _OTHER_REQUEST
    ),
    "answers-by-itself": PlantedFault(
        "answers rightly without asking the upstream",
        _answer_by_itself,
        "unreached",
        "never reached the upstream",
    ),
    "caches-later": PlantedFault(
        "the same, after eight requests",
        _cache_later,
        "unreached",
        "never reached the upstream",
    ),
    "rewrites-prompts": PlantedFault(
        "hides numbers in prompts", _rewrite_prompt, "errors", "another text"
    ),
    "crosses-answers": PlantedFault(
        "gives each request the answer to the one before it", _cross, "errors", _OTHER_REQUEST
    ),
    "cuts-bodies": PlantedFault(
        "ends the connection half way through an answer", _cut_body, "errors", "cut short"
    ),
    "cuts-bodies-quietly": PlantedFault(
        "half of the body, with a length that fits it",
        _cut_body_quietly,
        "errors",
        "JSON cut short",
    ),
    "announces-more": PlantedFault(
        "a Content-Length of 100 bytes too many",
        _announce_more,
        "errors",
        "timeout",
        share=0.2,
    ),
    "announces-less": PlantedFault(
        "a Content-Length of ten bytes too few", _announce_less, "errors", "more than one answer"
    ),
    "switches-protocol": PlantedFault(
        "answers 101 and goes on in HTTP/2", _switch_protocol, "errors", "not HTTP"
    ),
    "shortens-texts": PlantedFault(
        "a third of the text, in JSON that is whole", _shorten_text, "errors", "shorter"
    ),
    "rewrites-models": PlantedFault(
        "asks the upstream for another model", _rewrite_model, "model-differs", "another model"
    ),
    "refuses-early": PlantedFault(
        "answers 413 before it has read the request",
        _refuse_early,
        "errors",
        "413",
        picture=True,
        early=True,
    ),
    "answers-twice": PlantedFault(
        "sends each answer twice", _answer_twice, "errors", "more than one answer"
    ),
    "hangs": PlantedFault(
        "never answers one request in ten", _hang, "errors", "timeout", share=0.1
    ),
    "drops": PlantedFault(
        "closes the connection instead of answering one in ten",
        _drop,
        "errors",
        "connection lost",
        share=0.1,
    ),
    "gibberish": PlantedFault(
        "does not speak HTTP/1.1", _speak_gibberish, "errors", "not HTTP", share=0.2
    ),
    "dies": PlantedFault(
        "dies after fifteen requests", _die, "stopped", "stopped answering", share=1 / 16
    ),
    "ignores-stream": PlantedFault(
        "answers whole where a stream was asked for",
        _whole_for_stream,
        "errors",
        "not a stream",
        stream=True,
    ),
    "streams-json-lines": PlantedFault(
        "streams JSON lines instead of events",
        _stream_json_lines,
        "errors",
        "not a stream",
        stream=True,
    ),
    "ends-without-done": PlantedFault(
        "leaves data: [DONE] out", _without_done, "errors", "without [DONE]", stream=True
    ),
    "cuts-streams": PlantedFault(
        "ends the connection half way through a stream",
        _cut_stream,
        "errors",
        "cut short",
        stream=True,
    ),
    "ends-streams-early": PlantedFault(
        "the first half of a stream, then [DONE]",
        _end_stream_early,
        "errors",
        "shorter",
        stream=True,
    ),
    "error-events": PlantedFault(
        "an error event in a stream", _error_event, "errors", "an error event", stream=True
    ),
    "repeats-chunks": PlantedFault(
        "sends one chunk twice", _repeat_chunk, "errors", "longer", stream=True
    ),
    "repeats-last-chunk": PlantedFault(
        "sends the last chunk twice", _repeat_last_chunk, "errors", "longer", stream=True
    ),
    "drops-chunks": PlantedFault(
        "leaves one chunk out", _drop_chunk, "errors", "shorter", stream=True
    ),
    "swaps-chunks": PlantedFault(
        "swaps the first two chunks", _swap_chunks, "errors", "another text", stream=True
    ),
    "resets-streams": PlantedFault(
        "closes the connection within an event",
        _reset_in_stream,
        "errors",
        "cut short",
        stream=True,
    ),
}
