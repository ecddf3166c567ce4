"""Models as captions sees them: OpenAI-shaped upstreams on 127.0.0.1, polite and rude ones."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn


@dataclass
class Model:
    """An OpenAI-shaped upstream that says its name; streams odd bytes; may fail, or never end."""

    name: str
    status: int = 200
    endless: bool = False
    answer: str = ""
    requests: list[dict] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        data = json.loads(body or b"{}")
        self.requests.append(data)
        self.authorization.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        streamed = bool(data.get("stream"))
        kind = b"text/event-stream" if streamed else b"application/json"
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [(b"content-type", kind), (b"x-request-id", b"upstream-1")],
            }
        )
        for piece in STREAM if streamed else (self.completion(),):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0.01 if streamed else 0)
        if self.endless:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def completion(self) -> bytes:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": self.answer or f"{self.name} says a red apple"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
        body = {
            "id": "c1",
            "object": "chat.completion",
            "created": 0,
            "model": self.name,
            "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return json.dumps(body, separators=(", ", " : ")).encode()


def chunk(word: str) -> bytes:
    """One event of a streamed answer."""
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [choice],
    }
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


STREAM = (chunk("a "), chunk("red "), chunk("äpple"), b"data: [DONE]\n\n")


@contextmanager
def serving(app: object) -> Iterator[str]:
    """An ASGI application behind uvicorn, in a thread, on a free port; yields its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="auto")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


COMPLETION = Model("raw").completion()
RAW_HEAD = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
OK, FAILED = RAW_HEAD % (200, len(COMPLETION)) + COMPLETION, RAW_HEAD % (500, 2) + b"{}"
CUT = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


@dataclass
class Rude:
    """An upstream of raw sockets that resets its connections.

    `plans[n]` are the answers on the nth connection; then it is reset.
    """

    plans: list[list[bytes]]
    close_at_once: bool = False  # or only when the next request on it has been read
    requests: list[tuple[int, bytes]] = field(default_factory=list)  # connection and body

    def run(self, listener: socket.socket) -> None:
        for number, plan in enumerate(self.plans):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self.answer, args=(number, plan, connection), daemon=True
            ).start()

    def answer(self, number: int, plan: list[bytes], connection: socket.socket) -> None:
        for answer in plan:
            self.requests.append((number, self.request(connection)))
            connection.sendall(answer)
        if not (self.close_at_once and plan):
            self.requests.append((number, self.request(connection)))
        time.sleep(0.05)  # what was sent is read before the reset discards it
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def request(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")),
            0,
        )
        while len(body) < length:
            body += connection.recv(65536)
        return body


@contextmanager
def rude(*plans: list[bytes], close_at_once: bool = False) -> Iterator[tuple[Rude, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Rude(list(plans), close_at_once)
        threading.Thread(target=server.run, args=(listener,), daemon=True).start()
        yield server, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
