"""A mock upstream and a planted proxy on 127.0.0.1, for tests that measure them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from halftime.testing.proxies import PlantedProxy, in_a_thread
from halftime.verbs.gateway import run, upstream
from halftime.verbs.gateway.mock import Behaviour, start


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
def mock_and_proxy(
    behaviour: Behaviour,
    fault: str = "none",
    seconds: float | None = None,
    share: float | None = None,
) -> Iterator[tuple[str, str]]:
    """A mock, and a proxy with a planted fault before it, in their own thread; yields their base
    URLs."""

    async def listen() -> tuple[str, str]:
        server, _ = await start(behaviour)
        direct = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        port = await PlantedProxy(direct, fault, seconds, share).start()
        return f"{direct}/v1", f"http://127.0.0.1:{port}/v1"

    with in_a_thread(listen) as urls:
        yield urls
