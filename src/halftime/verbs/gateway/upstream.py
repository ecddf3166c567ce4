"""The mock as a separate process, and the reading of a mock's log."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from urllib.parse import urlsplit

import msgspec

from halftime.base.errors import HalftimeError, first_line
from halftime.verbs.gateway.endpoint import Trust
from halftime.verbs.gateway.mock import INFO_PATH, LOG_PATH, Behaviour, LogEntry, boot

# what is raised by a server that is gone, or that says something else: it may speak HTTP/2 alone
_NO_MOCK = (OSError, ValueError, HTTPException)
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
    except _NO_MOCK:
        return False
    return (
        isinstance(info, dict)
        and info.get("mock") == "halftime"
        and bool(boot())
        and info.get("boot") == boot()
    )


def take_log(url: str) -> dict[str, list[LogEntry]]:
    """The calls in the mock's log since the last time, by the id of their request.

    Raises HalftimeError where the mock is gone.
    """
    try:
        entries = msgspec.json.decode(_get(url, LOG_PATH), type=list[LogEntry])
    except _NO_MOCK as error:
        raise UpstreamGone(
            f"the mock upstream stopped answering: {first_line(error).rstrip('.')}"
        ) from error
    calls: dict[str, list[LogEntry]] = {}
    for entry in entries:
        calls.setdefault(entry.id, []).append(entry)
    return calls


class UpstreamGone(HalftimeError):
    """The upstream went away while it was measured."""


def listed_models(base: str, headers: Mapping[str, str], trust: Trust) -> list[str]:
    """The models that an OpenAI-compatible endpoint lists; none where it does not answer so."""
    parts = urlsplit(base)
    url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/models"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust.context())
    )
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=10) as answer:
            listing = msgspec.json.decode(answer.read(), type=_Models)
    except _NO_MOCK:
        return []
    return [model.id for model in listing.data]


class _ListedModel(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_ListedModel]


def _get(url: str, path: str) -> bytes:
    parts = urlsplit(url)
    with _opener.open(f"{parts.scheme}://{parts.netloc}{path}", timeout=10) as answer:
        return bytes(answer.read())
