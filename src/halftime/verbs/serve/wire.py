"""What the engine and its worker process say to each other, beside jobs and events, and how it is
framed on a pipe.

A frame is its length (4 bytes, little-endian) and then msgpack. Nothing is pickled.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

from halftime.records.serve import Certificate, RecompileAfterReady
from halftime.verbs.serve.messages import EngineSettings, Failed, Final, Job, Preview, Started

_LENGTH = struct.Struct("<I")
MOST = 2**31  # bytes in a frame: more is a broken pipe, not a picture


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first word to a worker. `started` is time.time() just before the process was made."""

    settings: EngineSettings
    started: float


class Draw(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Draw these together. `waited` is each job's time in the queue, in seconds."""

    jobs: tuple[Job, ...]
    waited: tuple[float, ...]


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nobody waits for this picture any more."""

    id: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pipeline is in memory; the warm-up begins."""


class Warming(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far the warm-up is."""

    what: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The warm-up is done and dynamo stands still."""

    certificate: Certificate
    resident_bytes: int


class BatchDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Every job of the batch has been answered; the worker takes the next.

    `pauses`: it does something else first, and says Ready afterwards.
    """

    resident_bytes: int
    pauses: bool = False
    previews_dropped: int = 0


class Recompiled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Dynamo compiled after ready."""

    found: tuple[RecompileAfterReady, ...]


class MemoryDropped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Memory grew too much and graphs were dropped. `warms_again`: something compiled was among
    them."""

    message: str
    warms_again: bool


class Broken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot load or warm up its pipeline, and says why; it ends with this."""

    message: str


ToWorker = Begin | Draw | Cancel
FromWorker = (
    Loaded
    | Warming
    | Ready
    | BatchDone
    | Recompiled
    | MemoryDropped
    | Broken
    | Started
    | Preview
    | Final
    | Failed
)

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """A message as it goes over the pipe."""
    data = _encoder.encode(message)
    return _LENGTH.pack(len(data)) + data


def length_of(header: bytes) -> int:
    """The length of the message after a header. Raises ValueError for what no frame of ours has."""
    (length,) = _LENGTH.unpack(header)
    if length > MOST:
        raise ValueError(f"a frame of {length} bytes: this is not our protocol")
    return int(length)


HEADER = _LENGTH.size


def from_worker(data: bytes) -> FromWorker:
    """A message of the worker."""
    message: FromWorker = _from_worker.decode(data)
    return message


def read(stream: BinaryIO) -> ToWorker | None:
    """The next message of the engine; None at the end, also where it comes in mid-frame. Blocks."""
    header = stream.read(HEADER)
    if len(header) < HEADER:
        return None
    length = length_of(header)
    data = stream.read(length)
    if len(data) < length:
        return None
    message: ToWorker = _to_worker.decode(data)
    return message
