"""Proxies with exactly known faults, for tests of what measures or guards a gateway.

with proxied("caches", "http://127.0.0.1:9000") as url:
    ...                                   # url answers every prompt with the first one's answer

    python -m halftime.testing.proxies holds-requests --seconds 0.025 --to http://127.0.0.1:9000

A proxy of this kind forwards bytes over one keep-alive connection for each client connection, and
does one thing wrong, which `FAULTS` names and describes. Holds are those of a timer of
microseconds; since a busy machine wakes a process late, the proxy keeps each hold as it happened,
and when it is terminated its command prints their median.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TypeVar
from urllib.parse import urlsplit

from halftime.base.errors import BadInput
from halftime.base.stats import median
from halftime.testing.faults import FAULTS, PlantedFault
from halftime.testing.passage import Passage
from halftime.verbs.gateway.extra import need, run_async
from halftime.verbs.gateway.timer import Timer, now

T = TypeVar("T")
_READ = 2**18


class _Requests:
    """What httptools calls while a client's bytes are parsed."""

    def __init__(self) -> None:
        self._parser = need("httptools").HttpRequestParser(self)
        self.begun = self.complete = False

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)


class PlantedProxy:
    """A proxy in front of `to` with the fault of this name; its amounts can be set.

    Raises BadInput for a name that is not in FAULTS.
    """

    def __init__(
        self, to: str, fault: str, seconds: float | None = None, share: float | None = None
    ) -> None:
        parts = urlsplit(to)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.fault = fault_named(fault)
        self.seconds = self.fault.seconds if seconds is None else seconds
        self.share = self.fault.share if share is None else share
        self.holds: list[float] = []  # as they happened, seconds
        self.requests = 0
        self.memory: deque[bytes] = deque(maxlen=64)  # what a fault remembers between requests
        self.gate = asyncio.Semaphore(self.fault.at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; the port."""
        self.timer = Timer(asyncio.get_running_loop())
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**24)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        """As a process that dies: stop listening, drop every connection."""
        if self._server:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def strikes(self, number: int) -> bool:
        """Whether this request, counted from 0, is one of those with the fault.

        They are evenly spread; the first is one only where all are.
        """
        return int((number + 1) * self.share) > int(number * self.share)

    async def hold(self, seconds: float) -> None:
        """Wait, and remember how long that was."""
        arrived = now()
        await self.timer.sleep_until(arrived + seconds)
        self.holds.append(now() - arrived)

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run something beside the requests, and hold a reference to it until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        passage = Passage(self, reader, writer)
        try:
            async for request in self._requests(passage):
                self.requests += 1
                passage.begin(self.requests - 1, request)
                act = self.fault.act if self.strikes(passage.number) else Passage.passing
                await act(passage)
                if passage.closed:
                    return
        except (ConnectionError, EOFError):
            pass  # one of the two sides left
        finally:
            self._writers.discard(writer)
            passage.close()

    async def _requests(self, passage: Passage) -> AsyncIterator[bytes]:
        """Each request of a connection; where the fault answers early, only its head."""
        requests, received = _Requests(), bytearray()
        while data := await passage.reader.read(_READ):
            received += data
            requests.feed(data)
            if requests.complete or (requests.begun and self.fault.early):
                request = bytes(received)
                received.clear()
                requests.begun = requests.complete = False
                yield request


def fault_named(name: str) -> PlantedFault:
    """Raises BadInput for a name that is not in FAULTS."""
    if name not in FAULTS:
        raise BadInput(f"there is no planted fault {name!r}. There are: {', '.join(FAULTS)}.")
    return FAULTS[name]


@contextmanager
def proxied(
    fault: str, to: str, seconds: float | None = None, share: float | None = None
) -> Iterator[str]:
    """The URL of a proxy in front of `to`, served by a thread of its own until the block ends.

    Raises BadInput for a name that is not in FAULTS.
    """
    fault_named(fault)
    with in_a_thread(lambda: PlantedProxy(to, fault, seconds, share).start()) as port:
        yield f"http://127.0.0.1:{port}{urlsplit(to).path}"


@contextmanager
def in_a_thread(start: Callable[[], Awaitable[T]]) -> Iterator[T]:
    """What `start` gives, with an event loop of its own that serves until the block ends."""
    ready, results = Event(), list[T]()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        results.append(await start())
        ready.set()
        await ended.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels what is left
            runner.run(serve())

    thread = Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield results[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _serve(proxy: PlantedProxy, port: int) -> None:
    _say(f"proxy on http://127.0.0.1:{await proxy.start(port)}")
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not loop.add_signal_handler, which Windows does not have.
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(terminated.set))
    with suppress(asyncio.CancelledError):
        await terminated.wait()
    _say(f"held {median(proxy.holds) if proxy.holds else 0.0:.9f}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Serve until interrupted."""
    faults = "\n".join(f"  {name:24}{fault.does}" for name, fault in FAULTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nFaults:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fault", choices=list(FAULTS), metavar="FAULT")
    parser.add_argument("--to", required=True, help="the upstream's URL")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="of the hold; each fault has its own default")
    parser.add_argument("--share", type=float, help="of the requests that it happens to, 0 to 1")
    options = parser.parse_args()

    async def serve() -> None:
        await _serve(
            PlantedProxy(options.to, options.fault, options.seconds, options.share), options.port
        )

    run_async(serve())


if __name__ == "__main__":
    main()
