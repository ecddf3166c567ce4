"""`halftime gateway mock`: an upstream that behaves as it is set to, and logs when.

It answers chat completions, image generations and models as OpenAI does, KServe v2 inference, and
Replicate- and fal-shaped predictions, at once or as jobs to be followed. Each answer carries the id
that its prompt carries, so that nobody can take another's for it. Each request's arrival and answer
are logged under that id, on the machine's monotonic clock, so that a client on the same machine
knows exactly what came between.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from halftime.base.listening import BACKLOG, listening_socket
from halftime.verbs.gateway.extra import need
from halftime.verbs.gateway.timer import Timer, now

LOG_PATH = "/halftime/log"  # GET: the log so far as JSON, which empties it
INFO_PATH = "/halftime/mock"
_MARK = re.compile(rb"halftime-([0-9a-f]{8})(?:-(\d+))?")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """Names this machine since its start: monotonic clocks may be compared where it is equal."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


@dataclass(frozen=True)
class Behaviour:
    """What the mock does. Seconds and bytes."""

    delay: float = 0.02  # to the first byte of the answer
    jitter: float = 0.0  # standard deviation of a normal around it, never below zero
    size: int = 512  # of the text or the picture in an answer, unless the request names one
    chunks: int = 8  # of a streamed answer
    gap: float = 0.01  # between them
    error_rate: float = 0.0
    seed: int = 0
    # of Replicate's and fal's predictions: above zero they are jobs that wait so long before they
    # run for `delay`, and are asked for until they are done
    queue: float = 0.0


class LogEntry(NamedTuple):
    """One line of the log; moments on the monotonic clock."""

    id: str
    connection: int
    received: float  # the request's last byte
    first: float  # about to hand the first bytes of the answer's body to the socket
    sent: float  # the same for the last ones
    status: int
    size: int = 0  # bytes of the request's body
    model: str = ""  # that the request asked for


class MockJob(NamedTuple):
    """A prediction that was accepted and is asked for later."""

    submitted: float
    path: str  # of the request
    number: str
    size: int


@dataclass
class MockState:
    """What all connections of one mock share."""

    behaviour: Behaviour
    timer: Timer
    random: random.Random
    log: deque[LogEntry] = field(default_factory=lambda: deque(maxlen=200_000))
    connections: int = 0
    jobs: dict[str, MockJob] = field(default_factory=dict)


class _MockConnection(asyncio.Protocol):
    """One client's connection: reads its requests and answers them."""

    def __init__(self, state: MockState) -> None:
        self._state = state
        state.connections += 1
        self._number = state.connections
        self._parser = need("httptools").HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._path = ""
        self._host = "127.0.0.1"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except need("httptools").HttpParserError:
            if self._transport:
                self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url.decode("latin-1").partition("?")[0]

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if name.lower() == b"host":
            self._host = value.decode("latin-1")

    def on_message_complete(self) -> None:
        received, body, self._body = now(), b"".join(self._body), []
        if self._parser.get_method() == b"GET":
            return self._write(_answer(200, self._look_up()))
        if self._state.behaviour.queue and _is_job(self._path):
            return self._accept(body, received)
        behaviour, rng = self._state.behaviour, self._state.random
        delay = behaviour.delay
        if behaviour.jitter:
            delay = max(0.0, rng.gauss(delay, behaviour.jitter))
        failed = rng.random() < behaviour.error_rate
        answer = self._failure if failed else self._stream if _wants_stream(body) else self._whole
        self._at(received + delay, lambda: answer(body, received))
        return None

    def _look_up(self) -> bytes:
        state = self._state
        if self._path == LOG_PATH:
            entries, state.log = list(state.log), deque(maxlen=200_000)
            return json.dumps(entries).encode()
        if job := self._job():
            return self._progress(job)
        answer: dict[str, object]
        if self._path == INFO_PATH:
            answer = {"mock": "halftime", "boot": boot(), "delay": state.behaviour.delay}
        else:
            answer = {"object": "list", "data": [{"id": "mock-model", "object": "model"}]}
        return json.dumps(answer).encode()

    def _job(self) -> MockJob | None:
        """The one that the path names, whichever of its URLs that is."""
        name = self._path.removesuffix("/status").rpartition("/")[2]
        return self._state.jobs.get(name)

    def _accept(self, body: bytes, received: float) -> None:
        """201 or 200 at once, with the URLs that a client follows."""
        number, size = _marked(body, self._state.behaviour.size)
        name = f"job{len(self._state.jobs)}"
        job = MockJob(received, self._path, number, size)
        self._state.jobs[name] = job
        status = 201 if self._path.endswith("/predictions") else 200
        self._log_and_write(body, number, received, _answer(status, self._state_of(job, name)))

    def _progress(self, job: MockJob) -> bytes:
        """A job's state, or its result where that is asked for and there."""
        name = self._path.removesuffix("/status").rpartition("/")[2]
        ready = now() >= job.submitted + self._state.behaviour.queue + self._state.behaviour.delay
        if ready and not self._path.endswith("/status"):
            return _shape(job.path)(job.size, job.number, "mock-model")
        return self._state_of(job, name)

    def _state_of(self, job: MockJob, name: str) -> bytes:
        behaviour, elapsed = self._state.behaviour, now() - job.submitted
        phase = (elapsed >= behaviour.queue) + (elapsed >= behaviour.queue + behaviour.delay)
        base = f"http://{self._host}{job.path}"
        if job.path.endswith("/predictions"):
            state = ("starting", "processing", "succeeded")[phase]
            return json.dumps(
                {"id": name, "status": state, "error": None, "urls": {"get": f"{base}/{name}"}}
            ).encode()
        return json.dumps(
            {
                "request_id": name,
                "status": ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")[phase],
                "status_url": f"{base}/requests/{name}/status",
                "response_url": f"{base}/requests/{name}",
            }
        ).encode()

    def _whole(self, body: bytes, received: float) -> None:
        number, size = _marked(body, self._state.behaviour.size)
        answer = _answer(200, _shape(self._path)(size, number, _model(body)))
        self._log_and_write(body, number, received, answer)

    def _log_and_write(self, body: bytes, number: str, received: float, answer: bytes) -> None:
        moment = now()  # before the write: the other side may have it before the write returns
        self._write(answer)
        self._state.log.append(self._entry(body, number, received, moment, moment, 200))

    def _entry(
        self, body: bytes, number: str, received: float, first: float, sent: float, status: int
    ) -> LogEntry:
        return LogEntry(
            number, self._number, received, first, sent, status, len(body), _model(body)
        )

    def _failure(self, body: bytes, received: float) -> None:
        error = {
            "error": {"message": "planted by the mock", "type": "server_error", "code": "mock"}
        }
        number, _ = _marked(body, 0)
        moment = now()
        self._write(_answer(500, json.dumps(error).encode()))
        self._state.log.append(self._entry(body, number, received, moment, moment, 500))

    def _stream(self, body: bytes, received: float) -> None:
        behaviour = self._state.behaviour
        number, size = _marked(body, behaviour.size)
        pieces = _stream_events(_text(size, number), behaviour.chunks, _model(body))
        pieces[-1] += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        first = now()
        self._write(_STREAM_HEAD + pieces[0])

        def step(index: int) -> None:
            last = index + 1 == len(pieces)
            if last:  # before the write, as above
                sent = now() if index else first
                self._state.log.append(self._entry(body, number, received, first, sent, 200))
            if index:
                self._write(pieces[index])
            if not last:
                self._at(first + behaviour.gap * (index + 1), lambda: step(index + 1))

        step(0)

    def _at(self, when: float, callback: Callable[[], object]) -> None:
        if when <= now():
            callback()
        else:
            self._state.timer.call_at(when, callback)

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _answer(status: int, body: bytes) -> bytes:
    reason = {200: "OK", 201: "Created"}.get(status, "Internal Server Error")
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _ends(body: bytes) -> tuple[bytes, bytes]:
    """Where a field is looked for, so that a picture of megabytes is not searched."""
    return body[:4096], body[-4096:]


def _wants_stream(body: bytes) -> bool:
    return any(re.search(rb'"stream"\s*:\s*true', part) for part in _ends(body))


def _model(body: bytes) -> str:
    """That the request asks for; Replicate calls it the version."""
    matches = (re.search(rb'"(?:model|version)"\s*:\s*"([^"]*)"', part) for part in _ends(body))
    match = next(filter(None, matches), None)
    return match[1].decode("utf-8", "replace") if match else ""


def _marked(body: bytes, size: int) -> tuple[str, int]:
    match = _MARK.search(body)
    if match is None:
        return "", size
    return match[1].decode(), int(match[2]) if match[2] else size


def _is_job(path: str) -> bool:
    """Whether a prediction that is asked for there may be a job: Replicate's and fal's."""
    return _shape(path) in (_replicate, _fal)


def _text(size: int, number: str) -> str:
    """The alphabet over and over, after the id of the request."""
    mark = f"halftime-{number} " if number else ""
    return (mark + _ALPHABET * (size // len(_ALPHABET) + 1))[: max(size, len(mark), 1)]


def _chat(size: int, number: str, model: str) -> bytes:
    message = {"role": "assistant", "content": _text(size, number)}
    tokens = max(1, size // 4)
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = _head("chat.completion", number, model)
    return json.dumps(head | {"choices": [choice], "usage": usage}).encode()


def _head(kind: str, number: str, model: str) -> dict[str, object]:
    name = f"chatcmpl-{number or 'mock'}"
    return {"id": name, "object": kind, "created": 1_700_000_000, "model": model or "mock-model"}


def _base64(size: int, number: str) -> bytes:
    """Of a picture, with the id of the request within: base64 knows no hyphen."""
    start = b"iVBORw0KGgoA" + (f"halftime{number}".encode() if number else b"")
    return start + b"A" * max(0, (size * 4 + 2) // 3 - len(start))


def _images(size: int, number: str, model: str) -> bytes:
    return b'{"created": 1700000000, "data": [{"b64_json": "' + _base64(size, number) + b'"}]}'


def _kserve(size: int, number: str, model: str) -> bytes:
    start = (
        b'{"model_name": "mock-model", "outputs": [{"name": "IMAGE", "shape": [1], '
        b'"datatype": "BYTES", "data": ["'
    )
    return start + _base64(size, number) + b'"]}]}'


def _replicate(size: int, number: str, model: str) -> bytes:
    return (
        b'{"id": "mock", "status": "succeeded", "output": ["data:image/png;base64,'
        + _base64(size, number)
        + b'"]}'
    )


def _fal(size: int, number: str, model: str) -> bytes:
    return (
        b'{"images": [{"url": "data:image/png;base64,'
        + _base64(size, number)
        + b'", "content_type": "image/png"}]}'
    )


_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SHAPES = (
    ("/chat/completions", _chat),
    ("/images/generations", _images),
    ("/infer", _kserve),
    ("/predictions", _replicate),
)


def _shape(path: str) -> Callable[[int, str, str], bytes]:
    return next((shape for ending, shape in _SHAPES if path.endswith(ending)), _fal)


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _stream_events(text: str, count: int, model: str) -> list[bytes]:
    """The text in so many events, each with as much of it; none is empty."""
    size = max(1, len(text) // count)
    parts = [text[i * size : (i + 1) * size] or "." for i in range(count - 1)]
    parts.append(text[(count - 1) * size :] or ".")
    return [_event(part, index, index + 1 == count, model) for index, part in enumerate(parts)]


def _event(text: str, index: int, last: bool, model: str) -> bytes:
    delta = ({"role": "assistant"} if index == 0 else {}) | {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
    value = _head("chat.completion.chunk", "", model) | {"choices": [choice]}
    return _chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


async def start(
    behaviour: Behaviour, host: str = "127.0.0.1", port: int = 0
) -> tuple[asyncio.Server, MockState]:
    """Listen; `server.sockets[0].getsockname()[1]` is the port.

    Raises BadInput where it cannot listen there.
    """
    loop = asyncio.get_running_loop()
    state = MockState(behaviour, Timer(loop), random.Random(behaviour.seed))
    server = await loop.create_server(
        lambda: _MockConnection(state), sock=listening_socket(host, port), backlog=BACKLOG
    )
    return server, state


async def serve(behaviour: Behaviour, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until cancelled; `ready` gets the port. Raises BadInput where it cannot listen."""
    server, state = await start(behaviour, host, port)
    ready(int(server.sockets[0].getsockname()[1]))
    try:
        await server.serve_forever()
    finally:
        state.timer.close()
