"""Profiling on the live server: while it is started, the next pictures are drawn with the profiler
on."""

from __future__ import annotations

from collections import deque

MOST_KEPT = 16


class Profiled:
    """Which pictures are to be profiled, and what came of those that were."""

    def __init__(self) -> None:
        self.wanted = 0
        self.sessions: deque[bytes] = deque(maxlen=MOST_KEPT)

    def start(self, pictures: int) -> None:
        """Profile the next `pictures`; sessions of an earlier start are dropped."""
        self.wanted = pictures
        self.sessions.clear()

    def stop(self) -> list[bytes]:
        """No more; the sessions so far, as JSON."""
        self.wanted = 0
        return list(self.sessions)

    def take(self) -> bool:
        """Whether the picture asked for now is one of them."""
        if not self.wanted:
            return False
        self.wanted -= 1
        return True

    def keep(self, session: bytes) -> None:
        self.sessions.append(session)
