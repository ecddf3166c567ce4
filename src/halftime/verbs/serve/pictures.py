"""Where `response_format=url` answers live: in memory, under names that cannot be guessed, for a
while."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple


class Stored(NamedTuple):
    """A picture file, and when it ends (seconds on the store's clock)."""

    data: bytes
    media_type: str
    expires: float


class PictureStore:
    """At most `capacity` bytes of pictures, each for `lifetime` seconds; the oldest go first."""

    def __init__(
        self, capacity: int, lifetime: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.lifetime, self._clock = capacity, lifetime, clock
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self.held = 0

    def put(self, data: bytes, media_type: str) -> str:
        """Keep a picture; its name has 256 bits of chance."""
        name = secrets.token_urlsafe(32)
        self._kept[name] = Stored(data, media_type, self._clock() + self.lifetime)
        self.held += len(data)
        self._drop_old()
        return name

    def get(self, name: str) -> Stored | None:
        """The picture, or None where it never was, has expired, or had to make room."""
        self._drop_old()
        return self._kept.get(name)

    def __len__(self) -> int:
        return len(self._kept)

    def _drop_old(self) -> None:
        now = self._clock()
        # All live equally long, so the first is both the oldest and the next to expire.
        while self._kept and (
            self.held > self.capacity or next(iter(self._kept.values())).expires <= now
        ):
            _, gone = self._kept.popitem(last=False)
            self.held -= len(gone.data)
