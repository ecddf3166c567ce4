"""The videos of a server: being made, made, and kept for a while, each for the client that asked
for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from halftime.verbs.serve.schema import VideoObject

MOST = 1000  # of which something is known, also of those that failed


@dataclass
class Film:
    """One video. `client` is who asked; `task` makes it."""

    client: str
    about: VideoObject
    file: bytes = b""
    thumbnail: bytes = b""
    ended: float | None = None  # on the shelf's clock
    task: asyncio.Task[None] | None = None


@dataclass
class FilmShelf:
    """At most `capacity` bytes of files, in memory, each for `lifetime` seconds; the oldest go
    first. `clock` is monotonic."""

    capacity: int
    lifetime: float
    clock: Callable[[], float] = time.monotonic
    films: dict[str, Film] = field(
        default_factory=dict
    )  # in the order in which they were asked for

    def add(self, film: Film) -> None:
        """A video that is being made."""
        self.films[film.about.id] = film
        self._drop_old()

    def ended(self, film: Film) -> None:
        """It is made, or has failed."""
        film.ended = self.clock()
        self._drop_old()

    def get(self, name: str, client: str) -> Film | None:
        """A client's own video; None where there is none of this name."""
        self._drop_old()
        film = self.films.get(name)
        return film if film is not None and film.client == client else None

    def of(self, client: str) -> list[Film]:
        """A client's videos, oldest first."""
        self._drop_old()
        return [film for film in self.films.values() if film.client == client]

    def drop(self, film: Film) -> None:
        """Forget it; one that is being made ends within a step."""
        self.films.pop(film.about.id, None)
        if film.task is not None:
            film.task.cancel()

    async def close(self) -> None:
        """End all that are being made."""
        tasks = [film.task for film in self.films.values() if film.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drop_old(self) -> None:
        oldest = self.clock() - self.lifetime
        finished = [film for film in self.films.values() if film.ended is not None]
        held = sum(len(film.file) for film in finished)
        for film in sorted(finished, key=lambda film: film.ended or 0.0):
            expired = (film.ended or 0.0) <= oldest
            if not expired and held <= self.capacity and len(self.films) <= MOST:
                break
            held -= len(film.file)
            del self.films[film.about.id]
