"""`halftime serve --selftest`: load on the server that has just started, from a process of its own,
and what came of it.

    python -m halftime.verbs.serve.selftest ADDRESS [SECONDS]

does the same to any server of ours. First its capacity: a closed loop of a few clients. Then open
loops at half of it, at all of it and at three times it, whose requests come by chance whether or
not the ones before are answered. What must hold: every request is answered, with its picture or
with 429 and when to come back; every picture is the one that was asked for; and the server has
counted as many as were sent. The key is taken from HALFTIME_API_KEY.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from halftime.base import units
from halftime.base.stats import poisson, quantile

LOADS = (0.5, 1.0, 3.0)  # times the capacity
SECONDS = 10.0  # of each, at least
_FEWEST = 12  # requests of each
_LONGEST = 120.0
_CLIENTS = 4  # of the closed loop
_MOST = 256  # requests of an open loop that are under way at once
_TIMEOUT = 300.0
_PROMPT = "a red apple on a white background"
_PICTURES, _REFUSED = (
    "halftime_pictures_total",
    'halftime_requests_rejected_total{code="queue_full"}',
)


class PictureReply(NamedTuple):
    """What came back: 0 for no answer at all."""

    status: int
    seconds: float
    right: bool = True  # the picture's seed is the one that was sent
    retry_after: bool = False


Ask = Callable[[int], PictureReply]  # of a seed


@dataclass
class LoadedServer:
    """A server under load."""

    address: str
    key: str = ""
    _seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def ask(self, seed: int) -> PictureReply:
        """One picture."""
        body = json.dumps({"prompt": _PROMPT, "seed": seed}).encode()
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.address}/v1/images/generations", body, headers)
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                pictures = json.loads(answer.read())["data"]
                right = [picture["seed"] for picture in pictures] == [seed]
                return PictureReply(answer.status, time.monotonic() - begun, right)
        except urllib.error.HTTPError as error:
            error.read()
            says_when = "retry-after" in error.headers
            return PictureReply(error.code, time.monotonic() - begun, retry_after=says_when)
        except (OSError, http.client.HTTPException, ValueError):
            return PictureReply(0, time.monotonic() - begun)

    def ask_next(self) -> PictureReply:
        """One picture with a seed that was not asked for before."""
        return self.ask(next(self._seeds))

    def counted(self, name: str) -> float:
        """A counter of /metrics; 0 where it is not there yet."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=_TIMEOUT) as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(values.get(name, 0.0))

    def state(self) -> dict[str, object]:
        """/readyz."""
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=_TIMEOUT) as answer:
                state = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            state = json.loads(error.read())
        return dict(state)


class LoadTest(NamedTuple):
    """One open loop and its answers."""

    times_capacity: float
    offered: float  # requests a second
    replies: tuple[PictureReply, ...]
    seconds: float

    @property
    def drawn(self) -> list[float]:
        """How long those that were drawn took, in seconds."""
        return [reply.seconds for reply in self.replies if reply.status == 200]

    @property
    def words(self) -> str:
        """A line of the report."""
        statuses = Counter(reply.status for reply in self.replies)
        counts = ", ".join(f"{count} x {status or 'none'}" for status, count in statuses.items())
        times = ""
        if self.drawn:
            p50, p99 = (units.seconds(quantile(self.drawn, q)) for q in (0.5, 0.99))
            times = f"; p50 {p50}, p99 {p99}; {len(self.drawn) / self.seconds:.2f} pictures/s"
        return f"{self.times_capacity:g}x, {self.offered:.2f}/s: {counts}{times}"


def arrivals(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """When requests come, by chance (Poisson), in seconds from the start."""
    return list(itertools.takewhile(lambda moment: moment < seconds, poisson(rate, rng)))


def closed_loop(ask: Callable[[], PictureReply], seconds: float, clients: int = _CLIENTS) -> float:
    """Pictures a second that a few clients get who ask again at once; each asks twice at least."""
    begun = time.monotonic()

    def client() -> int:
        pictures = requests = 0
        while requests < 2 or time.monotonic() - begun < seconds:
            pictures += ask().status == 200
            requests += 1
        return pictures

    with ThreadPoolExecutor(clients) as pool:
        pictures = sum(future.result() for future in [pool.submit(client) for _ in range(clients)])
    return pictures / (time.monotonic() - begun)


def open_loop(
    ask: Callable[[], PictureReply], moments: Sequence[float]
) -> tuple[PictureReply, ...]:
    """The answers to requests that are sent at these moments."""
    begun = time.monotonic()
    waiting = threading.Event()  # never set: a sleep
    with ThreadPoolExecutor(min(_MOST, len(moments) or 1)) as pool:
        futures = []
        for moment in moments:
            waiting.wait(max(0.0, begun + moment - time.monotonic()))
            futures.append(pool.submit(ask))
        return tuple(future.result() for future in futures)


def length_of(rate: float, least: float) -> float:
    """How long an open loop must be for its numbers to say something, in seconds."""
    return min(_LONGEST, max(least, _FEWEST / rate))


def troubles(
    replies: Sequence[PictureReply], counted: dict[str, float], state: dict[str, object]
) -> list[str]:
    """What did not hold, each as a sentence."""
    by_status = Counter(reply.status for reply in replies)
    wrong = [
        (by_status[0], "requests got no answer"),
        (sum(not reply.right for reply in replies), "answers held another picture"),
        (
            sum(reply.status == 429 and not reply.retry_after for reply in replies),
            "refusals did not say when to come back",
        ),
        *(
            (count, f"requests got {status}")
            for status, count in sorted(by_status.items())
            if status not in (0, 200, 429)
        ),
    ]
    sentences = [f"{units.count(count)} {sentence}." for count, sentence in wrong if count]
    for name, status in ((_PICTURES, 200), (_REFUSED, 429)):
        if counted[name] != by_status[status]:
            sentences.append(
                f"{name} rose by {counted[name]:g}; {by_status[status]} were answered with "
                f"{status}."
            )
    if state.get("state") != "ready":
        sentences.append(f"The server is {state.get('state')}: {state.get('why')}.")
    alarms = state.get("alarms")
    sentences += [f"alarm: {alarm}" for alarm in alarms] if isinstance(alarms, list) else []
    return sentences


def main(words: Sequence[str]) -> int:
    """0 where everything held, 1 where something did not."""
    target = LoadedServer(
        words[0], os.environ.get("HALFTIME_API_KEY", "").partition(",")[0].strip()
    )
    least, rng = float(words[1]) if len(words) > 1 else SECONDS, random.Random(0)
    before = {name: target.counted(name) for name in (_PICTURES, _REFUSED)}
    replies: list[PictureReply] = []

    def ask() -> PictureReply:
        reply = target.ask_next()
        replies.append(reply)
        return reply

    capacity = closed_loop(ask, least)
    if not capacity:
        print("no picture was drawn:", *troubles(replies, before, target.state()))  # noqa: T201
        return 1
    print(f"capacity: {capacity:.2f} pictures/s, {_CLIENTS} clients in a closed loop")  # noqa: T201
    for times in LOADS:
        rate = times * capacity
        moments = arrivals(rate, length_of(rate, least), rng)
        begun = time.monotonic()
        answers = open_loop(ask, moments)
        load = LoadTest(times, rate, answers, time.monotonic() - begun)
        print(load.words, flush=True)  # noqa: T201
    counted = {name: target.counted(name) - count for name, count in before.items()}
    sentences = troubles(replies, counted, target.state())
    verdict = f"{len(replies)} requests, each answered once and with what it asked for"
    print(*(sentences or [verdict]), sep="\n")  # noqa: T201
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
