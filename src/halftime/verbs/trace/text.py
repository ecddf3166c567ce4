"""The text of a trace, plain or gzipped, a part at a time: no more of it is held than is decoded
together."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from halftime.base.errors import BadFile
from halftime.base.store import read_blocks
from halftime.verbs.trace.foreign import refuse_foreign

BLOCK = 1 << 16
CHUNK = 4096  # of a gzip file; what a damaged one has in the chunk before the damage is lost
_GZIP = b"\x1f\x8b"


@dataclass
class TraceText:
    """`held` is what was read and not yet taken; `blocks` follow it."""

    blocks: Iterator[bytes]
    held: bytes = b""

    def grow(self, size: int) -> bool:
        """Hold that many bytes, or all that there are; whether there may be more."""
        parts, length = [self.held], len(self.held)
        while length < size:
            block = next(self.blocks, None)
            if block is None:
                break
            parts.append(block)
            length += len(block)
        self.held = b"".join(parts)
        return length >= size

    def rest(self) -> bytes:
        """All that is left."""
        self.held = b"".join([self.held, *self.blocks])
        return self.held


def text_of(path: Path | str, notes: list[str]) -> TraceText:
    """The text of a file; damage to a gzip file is noted once it is read.

    Raises BadFile where there is none to read, and for formats of other tools.
    """
    blocks = read_blocks(path, BLOCK)
    first = next(blocks, b"")
    refuse_foreign(path, first)
    if first[:2] != _GZIP:
        return TraceText(blocks, first)
    blocks = _unpacked(chain([first], blocks), notes)
    first = next(blocks, b"")
    if not first:
        raise BadFile(
            f"{path} is a gzip file from which nothing can be read. Export the trace again."
        )
    refuse_foreign(path, first)
    return TraceText(blocks, first)


def _unpacked(packed: Iterator[bytes], notes: list[str]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    try:
        for block in packed:
            for start in range(0, len(block), CHUNK):
                parts.append(unpacker.decompress(block[start : start + CHUNK]))
                if sum(map(len, parts)) >= BLOCK:
                    yield b"".join(parts)
                    parts.clear()
        parts.append(unpacker.flush())
    except zlib.error as error:
        notes.append(f"the gzip file is damaged ({error}); the part before the damage was read")
    else:
        if not unpacker.eof:
            notes.append("the gzip file ends too early; its beginning was read")
    text = b"".join(parts)
    if text:
        yield text
