"""The process: a socket, uvicorn, and an end in good order: on SIGTERM what is running finishes,
then exit code 0."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from types import FrameType

import uvicorn

from halftime.base import listening as door
from halftime.verbs.serve.app import application
from halftime.verbs.serve.service import Engine, HttpSettings, Service

logger = logging.getLogger("halftime.serve")
NOTHING_TAKEN = 60.0
Watcher = Callable[[Engine], Coroutine[None, None, None]]
_LAST_ANSWERS = 5.0
_LAST_ASKERS = 0.25
_LAST_WORDS = 1.0  # after that, for connections to close
_LOOK = 0.02
_LOOK_FOR_FAILURE = 0.5


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises BadInput where that cannot be."""
    taken = door.listening(host, port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections inherit it: the kernel lets go of a reader that takes nothing, even after the
        # server closed.
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * NOTHING_TAKEN))
    return taken


def run(
    engine: Engine, settings: HttpSettings, taken: socket.socket, watcher: Watcher | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; 0 where all that was accepted has been answered, 1 where time
    ran out.

    2 where the engine cannot draw, now or ever: a model that does not load, workers that die one
    after another. The process then ends by itself, so that whoever started it sees that, instead of
    a door with nobody behind it.

    `watcher`, a coroutine function, runs beside the server: it tells the screen how the warm-up
    goes.
    """
    app = application(engine, settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(_LAST_WORDS),
        backlog=door.BACKLOG,
    )
    server = DrainingServer(config, service, watcher)
    server.run(sockets=[taken])
    return 2 if server.failed else 1 if server.unfinished else 0


class DrainingServer(uvicorn.Server):
    """uvicorn closes its door on a signal; this one first keeps it open, to answer newcomers with
    503."""

    def __init__(
        self, config: uvicorn.Config, service: Service, watcher: Watcher | None = None
    ) -> None:
        super().__init__(config)
        self._service, self._watcher = service, watcher
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._signals = 0
        self.unfinished = 0  # requests that the end cut short
        self.failed = False  # the engine gave up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own start; from then on the engine is watched."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._keep(self._end_with_the_engine())
        if self._watcher is not None:
            self._keep(self._watcher(self._service.engine))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if not self.force_exit:
            # whoever had connected before is still told 503, not cut
            await asyncio.sleep(_LAST_ASKERS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once. None is raised again: the exit code
        says how it went."""
        self._signals += 1
        if self._signals > 1 or self._loop is None:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(
                lambda: self._keep(self._drain(signal.Signals(sig).name))
            )

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_with_the_engine(self) -> None:
        while self._service.engine.status.state != "failed":
            await asyncio.sleep(_LOOK_FOR_FAILURE)
        self.failed = True
        # what waited is told why
        await asyncio.sleep(_LAST_ANSWERS if self._service.active else _LOOK_FOR_FAILURE)
        self.should_exit = True

    async def _drain(self, why: str) -> None:
        service, seconds = self._service, self._service.settings.drain_seconds
        logger.warning("%s: finishing %d requests, at most %g s", why, service.active, seconds)
        service.draining = True
        late = asyncio.get_running_loop().call_later(seconds, self._note_unfinished)
        await service.engine.drain(seconds)
        late.cancel()
        # Their answers, good or bad, are on their way: a reader has a moment to take them.
        end = time.monotonic() + _LAST_ANSWERS
        while service.active and time.monotonic() < end:
            await asyncio.sleep(_LOOK)
        self.unfinished += service.active
        self.should_exit = True

    def _note_unfinished(self) -> None:
        self.unfinished = self._service.active
        logger.warning("%d requests are not finished and get 503", self.unfinished)
