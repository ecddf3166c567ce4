"""The process: uvicorn on a socket, and an orderly end: on SIGTERM the requests under way finish,
then exit code 0."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from halftime.base.listening import BACKLOG
from halftime.http.protocol import ConnectionLimits, protocol_class
from halftime.http.traffic import Traffic

logger = logging.getLogger("halftime.http")
STALLED_SECONDS = 60.0  # for `listening_socket`: a reader that takes nothing for so long is dropped
_ANSWERS_SECONDS = 5.0  # after the drain, for answers to reach their readers
_CONNECTED_SECONDS = 0.25  # for clients that had connected already to get their 503
_CLOSE_SECONDS = 1.0  # after that, for connections to close
_POLL_SECONDS = 0.02
_FAILURE_POLL_SECONDS = 0.5
_MOST_CONNECTIONS = 1000
_OWN_FILES = 128  # pipes, libraries, a margin


@dataclass(frozen=True)
class Backend:
    """What works behind the HTTP side, as the server sees it.

    `drain` finishes what was accepted within so many seconds; `failed` tells that it has given up
    for good; `watch` runs beside the server, for example to report its state on the screen.
    """

    drain: Callable[[float], Awaitable[None]] | None = None
    failed: Callable[[], bool] = lambda: False
    watch: Callable[[], Coroutine[None, None, None]] | None = None


def run(app: ASGIApp, listener: socket.socket, traffic: Traffic, backend: Backend) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    0: every accepted request has been answered. 1: the drain ran out of time. 2: the backend
    failed; the process then ends by itself, so that whoever started it sees that, instead of a
    port with nobody behind it.
    """
    server = DrainingServer(configuration(app), traffic, backend)
    server.run(sockets=[listener])
    return 2 if server.failed else 1 if server.unfinished else 0


def configuration(app: ASGIApp, limits: ConnectionLimits | None = None) -> uvicorn.Config:
    """uvicorn's, with our limits on connections: as many as there are files for, two each."""
    limits = limits or ConnectionLimits(min(_MOST_CONNECTIONS, (open_files() - _OWN_FILES) // 2))
    return uvicorn.Config(
        app,
        http=protocol_class(limits),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(_CLOSE_SECONDS),
        backlog=BACKLOG,
    )


def open_files() -> int:
    """How many files this process may open, after asking for enough. A connection may take two:
    itself, and the file that an upload is kept in."""
    enough = 2 * _MOST_CONNECTIONS + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return enough if soft == resource.RLIM_INFINITY else soft


class DrainingServer(uvicorn.Server):
    """uvicorn stops listening on a signal; this one keeps listening first, to answer newcomers with
    503."""

    def __init__(self, config: uvicorn.Config, traffic: Traffic, backend: Backend) -> None:
        super().__init__(config)
        self._traffic, self._backend = traffic, backend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._signals = 0
        self.unfinished = 0  # requests that the end cut short
        self.failed = False  # the backend gave up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own start; from then on the backend is watched."""
        self._loop = asyncio.get_running_loop()
        self._drain_on_hangup()
        await super().startup(sockets)
        self._spawn(self._end_with_the_backend())
        if self._backend.watch is not None:
            self._spawn(self._backend.watch())

    def _drain_on_hangup(self) -> None:
        """SIGHUP, when the terminal closes, drains too; under nohup it stays ignored."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self.handle_exit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await asyncio.sleep(_CONNECTED_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once. None is raised again: the exit code
        says how it went."""
        self._signals += 1
        if self._signals > 1 or self._loop is None:
            self.should_exit = self.force_exit = True
        else:
            name = signal.Signals(sig).name
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._drain(name)))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_with_the_backend(self) -> None:
        while not self._backend.failed():
            await asyncio.sleep(_FAILURE_POLL_SECONDS)
        self.failed = True
        # requests that wait get an error that says why
        await asyncio.sleep(_ANSWERS_SECONDS if self._traffic.active else _FAILURE_POLL_SECONDS)
        self.should_exit = True

    async def _drain(self, signal_name: str) -> None:
        traffic, seconds = self._traffic, self._traffic.drain_seconds
        logger.warning(
            "%s: finishing %d requests, at most %g s", signal_name, traffic.active, seconds
        )
        traffic.draining = True
        late = asyncio.get_running_loop().call_later(seconds, self._note_unfinished)
        if self._backend.drain is not None:
            await self._backend.drain(seconds)
        else:
            await self._all_answered(seconds)
        late.cancel()
        # Their answers, good or bad, are on their way: a reader has a moment to take them.
        await self._all_answered(_ANSWERS_SECONDS)
        self.unfinished += traffic.active
        self.should_exit = True

    async def _all_answered(self, seconds: float) -> None:
        """Wait until no request is under way, at most `seconds`."""
        end = time.monotonic() + seconds
        while self._traffic.active and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)

    def _note_unfinished(self) -> None:
        self.unfinished = self._traffic.active
        logger.warning("%d requests are not finished in time", self.unfinished)
