"""The engine's end of a worker: start it, talk to it, see it die, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.wire import (
    HEADER,
    Begin,
    FromWorker,
    ToWorker,
    frame,
    from_worker,
    length_of,
)

# -P: what lies in the folder where the server was started must not pass for a library.
COMMAND = (sys.executable, "-P", "-m", "halftime.verbs.serve.worker")
SECRETS = ("HALFTIME_API_KEY", "HALFTIME_PROFILE_TOKEN")  # which a worker has no use for
_BUFFER = 2**20
_PATIENCE = 5.0  # seconds for a worker to end by itself when its pipe is closed


class WorkerProcess:
    """One process. It dies with its engine, since its standard input then ends."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    @classmethod
    async def start(
        cls, settings: EngineSettings, command: tuple[str, ...] = COMMAND, number: int = 0
    ) -> WorkerProcess:
        """Spawn it and send it its settings; it answers when it has loaded."""
        begun = time.monotonic()
        # Its own session: Ctrl-C in a terminal reaches the engine alone, which drains first.
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            env=_environment(settings),
            start_new_session=True,
            limit=_BUFFER,
        )
        worker = cls(process)
        worker.send(Begin(settings=settings, started=begun, number=number))
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Write a message to the pipe. One to a dead worker is lost; `messages` sees its end."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._stdin.write(frame(message))

    async def messages(self) -> AsyncIterator[FromWorker]:
        """What it says, until it ends, also in mid-sentence."""
        try:
            while True:
                length = length_of(await self._stdout.readexactly(HEADER))
                yield from_worker(await self._stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def end(self) -> None:
        """Close its input, so that it ends; kill it where it does not."""
        self._stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _PATIENCE)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    def kill(self) -> None:
        """At once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _environment(settings: EngineSettings) -> dict[str, str]:
    """What the worker gets beside ours; what is set already stays.

    OpenMP's threads sleep while they wait: spinning ones made a call beside other work 2 to 30
    times slower. Waking them costs small models on a quiet machine a factor of 2.2 (docs/log.md):
    GOMP_SPINCOUNT=300000, libgomp's default. The libraries' warnings quote prompts that are too
    long, and logs hold no prompts.
    """
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    own = {name: value for name, value in os.environ.items() if name not in SECRETS}
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **quiet, **own}
    return variables | ({"OMP_NUM_THREADS": str(settings.threads)} if settings.threads else {})
