"""HTTP/2 (RFC 9113), by h2: one request at a time on each connection, as in HTTP/1.1.

So the two ways stay comparable: many streams on one connection would measure its congestion window.
Moments are stamped before h2 sees the bytes that came, and after it has made those that are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from halftime.base.extras import optional
from halftime.verbs.gateway.connection import Sample, TimedConnection
from halftime.verbs.gateway.timer import now

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.events import Event

NOT_HTTP2 = "not HTTP/2"
_WINDOW = 2**24  # bytes that a server may send before we answer: pictures are long
_OF_CONNECTIONS = (b"connection", b"host", b"keep-alive", b"transfer-encoding", b"upgrade")


def check_installed() -> None:
    """Raises MissingExtra without h2."""
    _need("h2")


class Http2Connection(TimedConnection):
    """HTTP/2, over TLS or at once."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, header: bytes, *, secure: bool = False
    ) -> None:
        super().__init__(loop, header)
        self._scheme = b"https" if secure else b"http"
        self._h2 = _connection()
        self._error: type[Exception] = _need("h2.exceptions").ProtocolError
        self._stream = 0
        self._waiting = memoryview(b"")  # of the request's body, for the server's window

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call: greet the server, and take long answers."""
        super().connection_made(transport)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._flush()

    def _write_request(self, parts: Sequence[bytes], sample: Sample) -> None:
        head, _, body = b"".join(parts).partition(b"\r\n\r\n")
        self._stream = self._h2.get_next_available_stream_id()
        self._waiting = memoryview(body)
        self._h2.send_headers(self._stream, _fields(head, self._scheme), end_stream=not body)
        self._send_body()
        data = self._h2.data_to_send()
        sample.sent = sample.sent or now()
        if self._transport:
            self._transport.write(data)

    def _send_body(self) -> None:
        """As much as the server has room for."""
        while self._waiting:
            room = self._h2.local_flow_control_window(self._stream)
            size = min(room, self._h2.max_outbound_frame_size, len(self._waiting))
            if size <= 0:
                return
            data, self._waiting = bytes(self._waiting[:size]), self._waiting[size:]
            self._h2.send_data(self._stream, data, end_stream=not self._waiting)

    def _flush(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """asyncio's call: stamp the time first, then parse."""
        self._now = now()
        if data.startswith(b"HTTP/1."):  # h2 would take it for the start of a long frame
            return self.close(NOT_HTTP2)
        try:
            for event in self._h2.receive_data(data):
                self._note(event)
            if self._waiting and self._sample:
                self._send_body()
        except self._error:
            return self.close(NOT_HTTP2)
        self._stamp_chunk()
        return self._flush()

    def _note(self, event: Event) -> None:
        """What h2 made of it."""
        kind, sample = type(event).__name__, self._sample
        if kind == "ConnectionTerminated":
            self.reusable = False  # a stream that is under way may still end
        if kind == "DataReceived":
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if sample is None or getattr(event, "stream_id", None) != self._stream:
            return
        match kind:
            case "ResponseReceived" | "InformationalResponseReceived":
                self._note_head(sample, event.headers)
            case "DataReceived":
                self._take(sample, event.data)
            case "StreamEnded":
                self._complete(sample)
            case "StreamReset":
                self._finish("cut short" if sample.status else "stream reset")

    def _note_head(self, sample: Sample, headers: Sequence[tuple[bytes, bytes]]) -> None:
        sample.first_byte = self._now
        for name, value in headers:
            if name == b":status":
                sample.status = int(value)
            self._keep(name, value)
        if sample.status < 200:
            self._pass_over(sample)


def _need(module: str) -> ModuleType:
    return optional(module, "http2", "halftime gateway --http2")


def _connection() -> H2Connection:
    connection, config, settings = map(_need, ("h2.connection", "h2.config", "h2.settings"))
    state: H2Connection = connection.H2Connection(
        config.H2Configuration(client_side=True, header_encoding=None)
    )
    state.local_settings = settings.Settings(
        client=True,
        initial_values={
            settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
            settings.SettingCodes.ENABLE_PUSH: 0,
        },
    )
    return state


def _fields(head: bytes, scheme: bytes) -> list[tuple[bytes, bytes]]:
    """The header fields of a request that is written as HTTP/1.1 has it."""
    first, *lines = head.split(b"\r\n")
    method, path, _ = first.split(b" ")
    named = [(name.lower(), value.strip()) for name, _, value in _split(lines)]
    host = next(value for name, value in named if name == b"host")
    pseudo = ((b":method", method), (b":scheme", scheme), (b":authority", host), (b":path", path))
    return [*pseudo, *((name, value) for name, value in named if name not in _OF_CONNECTIONS)]


def _split(lines: Sequence[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in lines]
