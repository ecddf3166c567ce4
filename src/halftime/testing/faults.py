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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from halftime.testing.passage import EVENTS_HEAD, Passage, chunk
from halftime.verbs.gateway.extra import load_ca_bundle
from halftime.verbs.gateway.timer import now

Act = Callable[[Passage], Awaitable[None]]
_ERROR = {"error": {"message": "planted", "type": "server_error", "code": "planted"}}
_LOGIN = b"<!doctype html><title>Log in</title><form action=/login></form>"
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
