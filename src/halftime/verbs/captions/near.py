"""Which pictures are near duplicates, in time that grows with their number alone.

A picture's sketch is a thumbnail of 16 x 16 pixels. Two pictures are near where their sketches
differ by little in every place, apart from how bright they are. Candidates come from random
projections (Datar et al. 2004, 'Locality-sensitive hashing based on p-stable distributions'), and
are compared with the first of each family only: families do not grow by chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from halftime.verbs.captions.features import THUMBNAIL, Array, thumbnail

SIDE = 16  # pixels of a sketch
NEAR = 0.02  # root mean square difference of near sketches, of 1.0 from black to white
BRIGHTNESS = 0.25  # what a difference in brightness counts, beside one in what is shown
TABLES, DIRECTIONS, CELL = 6, 6, 0.12
MOST_COMPARED = 32  # families of one cell, the latest: bounds the time of a log of one colour
_LENGTH = SIDE * SIDE * 3


def sketch(picture: bytes) -> bytes:
    """A picture's sketch. Raises NotSeen."""
    step = THUMBNAIL // SIDE
    small = thumbnail(picture)[0].reshape(SIDE, step, SIDE, step, 3).mean(axis=(1, 3))
    return bytes((small * 255).round().astype(np.uint8).tobytes())


class _Finder:
    """The families so far, by the cells that their first pictures fall into."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        directions = rng.normal(size=(_LENGTH, TABLES * DIRECTIONS))
        self.directions = directions / np.sqrt(np.square(directions).sum(0))
        self.offsets = rng.random(TABLES * DIRECTIONS)
        self.cells: dict[tuple[int, bytes], list[tuple[int, Array]]] = {}

    def family(self, mark: bytes, new: int) -> int:
        """The family that this sketch is near to, or `new`."""
        values = _comparable(mark)
        cells = self._cells(values)
        for cell in cells:
            for family, first in reversed(self.cells.get(cell, [])[-MOST_COMPARED:]):
                if np.square(first - values).mean() <= NEAR**2:
                    return family
        for cell in cells:
            self.cells.setdefault(cell, []).append((new, values))
        return new

    def _cells(self, values: Array) -> list[tuple[int, bytes]]:
        corners = np.floor(values @ self.directions / CELL + self.offsets).astype(np.int32)
        parts = corners.reshape(TABLES, DIRECTIONS)
        return [(table, parts[table].tobytes()) for table in range(TABLES)]


def _comparable(mark: bytes) -> Array:
    values = np.frombuffer(mark, dtype=np.uint8) / 255
    mean = values.mean()
    return np.asarray(values - mean * (1 - BRIGHTNESS))


def grouped(marks: Sequence[bytes | str]) -> list[int]:
    """A family's number for each mark: a sketch, or the log's own word for its family."""
    return list(_families(marks))


def _families(marks: Sequence[bytes | str]) -> Iterator[int]:
    words: dict[str, int] = {}
    finder, count = _Finder(), 0
    for mark in marks:
        family = (
            words.setdefault(mark, count) if isinstance(mark, str) else finder.family(mark, count)
        )
        count += family == count
        yield family
