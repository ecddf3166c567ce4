"""A pass-through proxy with planted faults: shows that the instrument finds what is there.

    python -m halftime.verbs.gateway.proxy --to http://127.0.0.1:9000 --port 9100 --hold 0.025

It forwards bytes over one keep-alive connection for each client connection, and can hold each
request (--hold), hold the first bytes of each answer but not the rest (--hold-first), hold every
piece of an answer in turn (--hold-each) or all of them until the last (--buffer), answer a share of
the requests with 502 (--fail, 0 to 1), open a connection and load a CA bundle for each request
(--new-client), or serve requests one by one (--serial, seconds: capacity 1 / serial). When it is
terminated it prints the median of the holds as they happened, since a busy machine wakes it late.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from halftime.base.stats import median
from halftime.verbs.gateway.extra import load_ca_bundle, need, run_async
from halftime.verbs.gateway.timer import Timer, now


@dataclass(frozen=True)
class Faults:
    """Seconds, except `fail`, a share of the requests, and the switches."""

    hold: float = 0.0
    hold_first: float = 0.0
    serial: float = 0.0
    hold_each: float = 0.0
    fail: float = 0.0
    new_client: bool = False
    buffer: bool = False


_FAILURE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


class _ProxyTarget(asyncio.Protocol):
    """The connection to the upstream: hands every read to its client connection."""

    def __init__(self, client: _ProxyClient) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self._parser = need("httptools").HttpResponseParser(self)
        self._complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def on_message_complete(self) -> None:
        self._complete = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        complete, self._complete = self._complete, False
        self.client.answer(data, complete)


class _ProxyClient(asyncio.Protocol):
    """A client's connection: collects one request, then sends it on."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._parser = need("httptools").HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: list[bytes] = []
        self._complete = False
        self._target: _ProxyTarget | None = None
        self._held: list[bytes] = []
        self._holding = self._first = False
        self._passed_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop()

    def on_message_complete(self) -> None:
        self._complete = True

    def data_received(self, data: bytes) -> None:
        self._request.append(data)
        self._parser.feed_data(data)
        if self._complete:
            self._complete, self._first = False, True
            request, self._request = b"".join(self._request), []
            if self._proxy.fails_now():
                return self._write(_FAILURE)
            self._proxy.after_hold(lambda: self._proxy.spawn(self._forward(request)))
        return None

    async def _forward(self, request: bytes) -> None:
        faults = self._proxy.faults
        if faults.new_client:
            self._drop()
            load_ca_bundle()
        target = self._target
        if target is None or target.transport is None or target.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, target = await loop.create_connection(
                lambda: _ProxyTarget(self), *self._proxy.address
            )
            self._target = target
        if target.transport:
            target.transport.write(request)

    def answer(self, data: bytes, complete: bool) -> None:
        """Bytes from the upstream, held or passed on."""
        faults = self._proxy.faults
        if faults.buffer:
            self._held.append(data)
            return self._release() if complete else None
        if faults.hold_each:
            self._passed_at = max(now(), self._passed_at) + faults.hold_each
            return self._proxy.timer.call_at(self._passed_at, lambda: self._write(data))
        if self._holding:
            self._held.append(data)
            return None
        hold = faults.hold_first if self._first and not complete else 0.0
        self._first = False
        if not hold:
            return self._write(data)
        self._holding, self._held = True, [data]
        return self._proxy.timer.call_at(now() + hold, self._release)

    def _release(self) -> None:
        self._holding, held, self._held = False, self._held, []
        self._write(b"".join(held))

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def _drop(self) -> None:
        if self._target and self._target.transport:
            self._target.transport.close()
        self._target = None


class Proxy:
    """What all its connections share."""

    def __init__(self, to: str, faults: Faults) -> None:
        parts = urlsplit(to)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults = faults
        self.timer = Timer(asyncio.get_running_loop())
        self._free_at = 0.0
        self.holds: list[float] = []  # as they happened, seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0

    def fails_now(self) -> bool:
        """Whether this request is one of those that fail: evenly spread, and never the first."""
        before = int(self._requests * self.faults.fail)
        self._requests += 1
        return int(self._requests * self.faults.fail) > before and self._requests > 1

    def after_hold(self, action: Callable[[], object]) -> None:
        """Do it after the set hold, and in turn where requests are served one by one."""
        arrived = now()
        when = arrived + self.faults.hold
        if self.faults.serial:
            self._free_at = when = max(when, self._free_at) + self.faults.serial

        def let_go() -> None:
            self.holds.append(now() - arrived)
            action()

        if when <= arrived:
            let_go()
        else:
            self.timer.call_at(when, let_go)

    def spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        """Run a coroutine, and hold a reference to it until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listen on 127.0.0.1."""
        return await asyncio.get_running_loop().create_server(
            lambda: _ProxyClient(self), "127.0.0.1", port
        )


async def _serve(to: str, port: int, faults: Faults) -> None:
    proxy = Proxy(to, faults)
    server = await proxy.start(port)
    _say(f"proxy on http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not loop.add_signal_handler, which Windows does not have.
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(terminated.set))
    await terminated.wait()
    _say(f"held {median(proxy.holds) if proxy.holds else 0.0:.9f}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, default=0)
    for name in ("hold", "hold-first", "serial", "hold-each", "fail"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    for name in ("new-client", "buffer"):
        parser.add_argument(f"--{name}", action="store_true")
    options = vars(parser.parse_args())
    to, port = options.pop("to"), options.pop("port")
    run_async(_serve(to, port, Faults(**options)))


if __name__ == "__main__":
    main()
