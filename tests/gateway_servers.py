"""A mock upstream and a planted proxy on 127.0.0.1, for tests that measure them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from halftime.verbs.gateway import run, upstream
from halftime.verbs.gateway.mock import Behaviour, start
from halftime.verbs.gateway.proxy import Faults, Proxy


@contextmanager
def mock_in_this_process(behaviour: Behaviour) -> Iterator[tuple[str, int]]:
    """In place of `upstream.spawned`: a new Python takes many seconds on a busy machine."""
    with mock_and_proxy(behaviour) as (direct, _):
        yield direct.removesuffix("/v1"), os.getpid()


def shorten_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator measures its own floor in this process, and briefly."""
    monkeypatch.setattr(upstream, "spawned", mock_in_this_process)
    monkeypatch.setattr(run, "FLOOR_REQUESTS", 30)
    monkeypatch.setattr(run, "CROWD_SECONDS", 0.1)


@contextmanager
def mock_and_proxy(behaviour: Behaviour, faults: Faults | None = None) -> Iterator[tuple[str, str]]:
    """A mock and a proxy before it, in their own thread; yields their base URLs."""
    ready, urls, loop = Event(), [], asyncio.new_event_loop()

    async def listen() -> None:
        server, _ = await start(behaviour)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        proxy = await Proxy(urls[0], faults or Faults()).start()
        urls.append(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        ready.set()

    thread = Thread(
        target=lambda: (loop.run_until_complete(listen()), loop.run_forever()), daemon=True
    )
    thread.start()
    assert ready.wait(60)
    try:
        yield f"{urls[0]}/v1", f"{urls[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
