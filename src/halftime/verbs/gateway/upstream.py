"""The mock as a process of its own, and the reading of a mock's log."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import msgspec

from halftime.base.errors import HalftimeError
from halftime.verbs.gateway.mock import INFO_PATH, LOG_PATH, Behaviour, Entry, boot

# A proxy of the environment's must not stand between us and what we measure.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def spawned(behaviour: Behaviour) -> Iterator[tuple[str, int]]:
    """A mock on a free port of 127.0.0.1; yields its base URL and process id."""
    values = [
        f"--{name.replace('_', '-')}={getattr(behaviour, name)}"
        for name in Behaviour.__dataclass_fields__
    ]
    command = [sys.executable, "-m", "halftime", "gateway", "mock", "--port=0", *values]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            raise HalftimeError(
                f"the mock did not start: {line.strip() or 'no output'}. Run: halftime gateway "
                "mock."
            )
        yield "http://" + line.split("http://")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.wait(10)


def is_mock(url: str) -> bool:
    """The URL is a halftime mock on this machine, since its start: their clock is ours."""
    try:
        info = msgspec.json.decode(_get(url, INFO_PATH))
    except (OSError, ValueError):
        return False
    return (
        isinstance(info, dict)
        and info.get("mock") == "halftime"
        and bool(boot())
        and info.get("boot") == boot()
    )


def take_log(url: str) -> dict[str, Entry]:
    """The mock's log since the last call, by request id."""
    return {entry.id: entry for entry in msgspec.json.decode(_get(url, LOG_PATH), type=list[Entry])}


def _get(url: str, path: str) -> bytes:
    parts = urlsplit(url)
    with _opener.open(f"{parts.scheme}://{parts.netloc}{path}", timeout=10) as answer:
        return bytes(answer.read())
