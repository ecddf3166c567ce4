"""What processes tell one another: a file that each adds single bytes to, and reads the news of."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import deque
from pathlib import Path

from halftime.base.errors import BadFile

_HEAD = b"halftime captions drift "


class Journal:
    """Bytes in the order in which they came; of this process alone where it has no file.

    One byte added to a file that is open for appending is never torn or lost between processes.
    """

    def __init__(self, path: str | Path | None = None, about: str = "") -> None:
        """`about` names what the bytes are about; a file about something else is refused.

        Raises BadFile.
        """
        self._own: deque[int] = deque()
        self._file = -1
        if path is None:
            return
        head = _HEAD + about.encode() + b"\n"
        try:
            _create(Path(path), head)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND)
            there = os.pread(self._file, len(head), 0)
        except OSError as error:
            raise BadFile(f"cannot use {path} for the drift: {error.strerror}.") from error
        if there != head:
            os.close(self._file)
            raise BadFile(
                f"{path} is not the drift of this router. Name another file, or delete it where "
                "the router was calibrated anew."
            )
        self._position = len(head)

    def add(self, mark: bytes) -> None:
        """Add one byte."""
        if self._file < 0:
            self._own.extend(mark)
        else:
            os.write(self._file, mark)

    def new(self) -> bytes:
        """What was added since the last call, by whichever process."""
        if self._file < 0:
            marks = bytes(self._own)
            self._own.clear()
            return marks
        marks = b""
        while piece := os.pread(self._file, 2**16, self._position):
            self._position += len(piece)
            marks += piece
        return marks

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _create(path: Path, head: bytes) -> None:
    """The file with its head, unless it is there: of processes that start at once only one does."""
    if path.exists():
        return
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(head)
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
