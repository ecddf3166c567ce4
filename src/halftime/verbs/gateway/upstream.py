"""The mock as a separate process, and the reading of a mock's log."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import msgspec

from halftime.base.errors import HalftimeError
from halftime.verbs.gateway.mock import INFO_PATH, LOG_PATH, Behaviour, LogEntry, boot

# A proxy set in the environment must not come between us and what we measure.
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
            output = line.strip() or "no output"
            raise HalftimeError(
                f"the mock did not start: {output}. Run `halftime gateway mock` to see why."
            )
        yield "http://" + line.split("http://")[1].split()[0], process.pid
    finally:
        process.terminate()
        process.wait(10)


def is_mock(url: str) -> bool:
    """Whether the URL is a halftime mock on this machine, whose clock is then ours."""
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


def take_log(url: str) -> dict[str, LogEntry]:
    """The mock's log since the last call, by request id."""
    entries = msgspec.json.decode(_get(url, LOG_PATH), type=list[LogEntry])
    return {entry.id: entry for entry in entries}


def _get(url: str, path: str) -> bytes:
    parts = urlsplit(url)
    with _opener.open(f"{parts.scheme}://{parts.netloc}{path}", timeout=10) as answer:
        return bytes(answer.read())
