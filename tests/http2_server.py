"""A small HTTP/2 server on h2, for tests of what speaks to one."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

h2 = pytest.importorskip("h2.connection", reason="halftime[http2]")
from h2.config import H2Configuration  # noqa: E402
from h2.events import DataReceived, RequestReceived, StreamEnded  # noqa: E402
from h2.exceptions import ProtocolError  # noqa: E402
from h2.settings import SettingCodes  # noqa: E402

HEAD = [(":status", "200"), ("content-type", "application/json")]
STREAM_HEAD = [(":status", "200"), ("content-type", "text/event-stream")]


def answer(text: str = "words") -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "1", "choices": [{"index": 0, "message": message}]}).encode()


@dataclass
class Script:
    """What the server does with each request."""

    pieces: tuple[bytes, ...] = (answer(),)
    head: list[tuple[str, str]] = field(default_factory=lambda: HEAD)
    interim: list[tuple[str, str]] | None = None
    delay: float = 0.0
    gap: float = 0.0
    reset: bool = False  # after the first piece
    goodbye: bool = False  # GOAWAY after each answer
    raw: bytes = b""  # instead of everything
    bodies: list[bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0


class _Connection(asyncio.Protocol):
    def __init__(self, script: Script) -> None:
        self.script = script
        script.connections += 1
        config = H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.H2Connection(config)
        self.bodies: dict[int, bytes] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.h2.initiate_connection()
        # as narrow as a server may make it: bodies come in parts
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        self.flush()

    def flush(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self.script.raw:
            return self.transport.write(self.script.raw)
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            return self.transport.close()
        for event in events:
            if isinstance(event, RequestReceived):
                self.script.heads.append(dict(event.headers))
                self.bodies[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.script.bodies.append(self.bodies.pop(event.stream_id))
                task = asyncio.ensure_future(self.respond(event.stream_id))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        return self.flush()

    async def respond(self, stream: int) -> None:
        script = self.script
        await asyncio.sleep(script.delay)
        if script.interim:
            self.h2.send_headers(stream, script.interim)
        self.h2.send_headers(stream, script.head)
        for index, piece in enumerate(script.pieces):
            if index:
                await asyncio.sleep(script.gap)
            for start in range(0, len(piece), 16_000):
                self.h2.send_data(stream, piece[start : start + 16_000])
            self.flush()
            if script.reset:
                self.h2.reset_stream(stream)
                return self.flush()
        self.h2.end_stream(stream)
        if script.goodbye:
            self.h2.close_connection(last_stream_id=stream)
        return self.flush()


@asynccontextmanager
async def serving_http2(
    script: Script, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(script), "127.0.0.1", 0, ssl=context)
    scheme, host = ("https", "localhost") if context else ("http", "127.0.0.1")
    try:
        yield f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
