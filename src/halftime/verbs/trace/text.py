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
MARK = b"\xef\xbb\xbf"  # of the order of bytes; some editors write it


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
    first = next(blocks, b"").removeprefix(MARK)
    if not first:
        raise BadFile(f"{path} is empty. Export the trace again.")
    refuse_foreign(path, first)
    if first[:2] != _GZIP:
        return TraceText(blocks, first)
    blocks = _unpacked(chain([first], blocks), notes)
    first = next(blocks, b"").removeprefix(MARK)
    if not first:
        raise BadFile(
            f"{path} is a gzip file from which nothing can be read. Export the trace again."
        )
    if first.startswith(_GZIP):
        raise BadFile(f"{path} is packed by gzip twice. Unpack it once with `gunzip`.")
    refuse_foreign(path, first)
    return TraceText(blocks, first)


class _GzipMembers:
    """A gzip file's members one after another: parallel compressors write many."""

    def __init__(self) -> None:
        self.member = zlib.decompressobj(wbits=31)
        self.waiting = b""  # less than a header

    def unpacked(self, packed: bytes) -> Iterator[bytes]:
        """What a chunk holds; what follows the last member and is none, padding, is left out."""
        packed = self.waiting + packed
        self.waiting = b""
        while packed:
            if self.member.eof:
                if len(packed) < len(_GZIP):
                    self.waiting = packed
                    return
                if not packed.startswith(_GZIP):
                    return
                self.member = zlib.decompressobj(wbits=31)
            yield self.member.decompress(packed)
            packed = self.member.unused_data


def _unpacked(packed: Iterator[bytes], notes: list[str]) -> Iterator[bytes]:
    unpacker = _GzipMembers()
    parts: list[bytes] = []
    try:
        for block in packed:
            for start in range(0, len(block), CHUNK):
                parts += unpacker.unpacked(block[start : start + CHUNK])
                if sum(map(len, parts)) >= BLOCK:
                    yield b"".join(parts)
                    parts.clear()
        parts.append(unpacker.member.flush())
    except zlib.error as error:
        notes.append(f"the gzip file is damaged ({error}); the part before the damage was read")
    else:
        if not unpacker.member.eof:
            notes.append("the gzip file ends too early; its beginning was read")
    text = b"".join(parts)
    if text:
        yield text
