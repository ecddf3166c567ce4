"""Who is let in, whose turn it is, and how long a newcomer should stay away: pure functions of the
queue.

Turns are those of self-clocked fair queueing (Golestani, 1994): each picture has a tag, the work of
its client up to and with it, and the lowest tag is drawn next. A client that sends ten pictures at
once has its second one drawn after the first ones of all the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST_WAIT = 600.0  # seconds that a client is told to stay away at most
_GRACE = 5.0  # seconds for a client to come back after the wait that it was told
_MOST_PROMISES = 1024
_JITTER = 0.25  # of the wait, so that those who were refused together do not come back together


@dataclass
class Turns:
    """Tags of fair queueing, in seconds of work."""

    now: float = 0.0  # the tag that was drawn last
    last: dict[str, float] = field(default_factory=dict)  # client -> its latest tag

    def tags(self, client: str, costs: Sequence[float]) -> list[float]:
        """The tags of a client's next pictures, which would cost so many seconds each."""
        tag, tags = max(self.now, self.last.get(client, 0.0)), []
        for cost in costs:
            tag += cost
            tags.append(tag)
        return tags

    def add(self, client: str, tag: float) -> None:
        """A picture was let in under this tag."""
        self.last[client] = tag

    def serve(self, tag: float) -> None:
        """A picture with this tag is drawn."""
        self.now = max(self.now, tag)
        self.last = {client: last for client, last in self.last.items() if last > self.now}


class Turn(NamedTuple):
    """What a picture adds to the line: when its turn is, what it takes, and when it is late."""

    turn: tuple[bool, float, int]
    seconds: float
    deadline: float


def late(line: Sequence[Turn], begin: float, workers: int) -> set[int]:
    """Positions in `line` of the pictures that would be done after their deadline, drawn in turn
    from `begin` on by so many workers."""
    end, positions = begin, set()
    for position in sorted(range(len(line)), key=lambda index: line[index].turn):
        end += line[position].seconds / workers
        if end > line[position].deadline:
            positions.add(position)
    return positions


class Promise(NamedTuple):
    """A client that was refused and told to come back at `due`: what it wants, and until when room
    is left for it."""

    client: str
    pictures: int
    seconds: float
    due: float
    until: float


@dataclass
class Promises:
    """Those who were told to come back, in the order in which they came first.

    They are counted in what the next ones are told, and room is left for them by all who came
    later: or a client that wants much would never find it beside those that want little.
    """

    chance: Callable[[], float]  # 0 to 1
    counted: int  # of those before, in what a client is told: no more than a queue
    pending: list[Promise] = field(default_factory=list)

    def before(self, client: str, now: float) -> tuple[int, float]:
        """Pictures and seconds to leave for other clients that came before: of each its largest
        request."""
        self.pending = [promise for promise in self.pending if promise.until > now]
        largest: dict[str, Promise] = {}
        for promise in self.pending:
            if promise.client == client:
                break
            before = largest.get(promise.client, promise)
            largest[promise.client] = max(before, promise, key=lambda item: item.seconds)
        return (
            sum(item.pictures for item in largest.values()),
            sum(item.seconds for item in largest.values()),
        )

    def take(self, client: str) -> None:
        """The client came back and was let in."""
        mine = next((item for item in self.pending if item.client == client), None)
        if mine is not None:
            self.pending.remove(mine)

    def refuse(
        self, client: str, costs: Sequence[float], ahead: float, workers: int, now: float
    ) -> float:
        """Seconds that this client should stay away: what is ahead of it in the queue, and all who
        were refused before it. One that came back when it should keeps its place."""
        self.pending = [promise for promise in self.pending if promise.until > now]
        position = next(
            (
                index
                for index, item in enumerate(self.pending)
                if item.client == client and item.due <= now
            ),
            len(self.pending),
        )
        promised = sum(promise.seconds for promise in self.pending[:position][: self.counted])
        wait = max(1.0, (ahead + promised) / workers) * (1.0 + _JITTER * self.chance())
        wait = min(wait, LONGEST_WAIT)
        until = now + math.ceil(wait) + _GRACE
        if position < _MOST_PROMISES:
            promise = Promise(client, len(costs), sum(costs), now + wait, until)
            self.pending[position : position + 1] = [promise]
        return wait
