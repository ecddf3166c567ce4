"""What the engine and its worker process say to each other, beside jobs and events; how it is
framed on a pipe; and the worker's end of the pipes.

A frame is its length (4 bytes, little-endian) and then msgpack. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

import msgspec
import psutil

from halftime.records.serve import Certificate, RecompileAfterReady
from halftime.verbs.serve.messages import (
    EngineSettings,
    Final,
    Job,
    JobFailed,
    Preview,
    Started,
    Stepped,
)

_LENGTH = struct.Struct("<I")
HEADER = _LENGTH.size
BEAT_SECONDS = 1.0
_ASLEEP_SECONDS = 0.01  # of processor time between two beats
_LOOK_AT_CHILDREN = 5  # beats
MOST = 2**31  # bytes in a frame: more means a broken pipe, not a picture


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first word to a worker. `started` is time.monotonic() just before the process was
    started; `number` is its place among the engine's workers, from 0."""

    settings: EngineSettings
    started: float
    number: int = 0


class DrawTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Draw these together. `waited` is each job's time in the queue, in seconds."""

    jobs: tuple[Job, ...]
    waited: tuple[float, ...]
    tags: tuple[float, ...] = ()  # of fair queueing, where requests are scheduled at the step


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nobody waits for this picture any more."""

    id: str


class ModelLoaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The pipeline is in memory; the warm-up begins."""


class Warming(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far the warm-up is: `step` is what runs now, after `finished` of `total`."""

    step: str
    finished: int
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
    jobs: tuple[str, ...] = ()  # of the batch; none: all that the worker had
    pauses: bool = False
    previews_dropped: int = 0


class StepsTaken(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A forward pass is done: how many steps these requests still have before them."""

    left: dict[str, int]


class Recompiled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Dynamo compiled after ready."""

    graphs: tuple[RecompileAfterReady, ...]


class MemoryDropped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Memory grew too much and graphs were dropped. `warms_again`: something compiled was among
    them."""

    message: str
    warms_again: bool


class Shadowed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Pictures were drawn twice: which of them differ visibly, where `alpha` is the share of all
    that the certificate allows. `trouble` says why others could not be drawn again."""

    alpha: float
    differ: tuple[bool, ...] = ()
    trouble: str = ""


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A sign of life, once a second.

    `steps` counts what the main thread got done: steps and calls of the warm-up. `cpu_seconds` are
    those of the process and its children, without what the beats themselves take.
    """

    steps: int
    cpu_seconds: float


class CannotServe(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot load or warm up its pipeline, and says why; it ends with this."""

    message: str


ToWorker = Begin | DrawTask | Cancel
FromWorker = (
    ModelLoaded
    | Warming
    | Ready
    | BatchDone
    | StepsTaken
    | Recompiled
    | MemoryDropped
    | Shadowed
    | CannotServe
    | Beat
    | Started
    | Preview
    | Stepped
    | Final
    | JobFailed
)

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """A message as it goes over the pipe."""
    data = _encoder.encode(message)
    return _LENGTH.pack(len(data)) + data


def length_of(header: bytes) -> int:
    """The length of the message after a header. Raises ValueError for a length that no frame of
    ours has."""
    (length,) = _LENGTH.unpack(header)
    if length > MOST:
        raise ValueError(f"a frame of {length} bytes: this is not our protocol")
    return int(length)


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


class ProcessorTime:
    """Processor seconds of this process and its children, but for those of the thread that asks.

    Children are looked for now and then only, and only while the process itself does nothing: a
    compiler's processes work while it waits for them.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._own = self._children = 0.0
        self._asleep = 0

    def seconds(self) -> float:
        """Up to now."""
        own = time.process_time() - time.thread_time()
        self._asleep = self._asleep + 1 if own - self._own < _ASLEEP_SECONDS else 0
        self._own = own
        if self._asleep and self._asleep % _LOOK_AT_CHILDREN == 0:
            self._children = max(self._children, self._of_children())
        return own + self._children

    def _of_children(self) -> float:
        total = 0.0
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
        return total


@dataclass
class Channel:
    """The worker's end: standard input and output, kept clear of what libraries print.

    When the engine's end closes, this process ends itself: no orphan draws on.
    """

    source: BinaryIO
    sink: BinaryIO
    batches: queue.SimpleQueue[DrawTask] = field(default_factory=queue.SimpleQueue)
    at_end: Callable[[], None] = lambda: None  # before this process ends itself
    steps: int = 0  # what the main thread got done so far
    _cancelled: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def over_standard_streams(cls) -> Channel:
        """Take standard input and output for messages; what is printed goes to standard error from
        now on."""
        source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(source, sink)

    def begin(self) -> Begin | None:
        """The first message; None where the engine has gone already."""
        message = read(self.source)
        return message if isinstance(message, Begin) else None

    def listen(self) -> None:
        """Take messages in a thread, so that a cancellation arrives while a picture is being
        drawn; and give signs of life in another."""
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def step(self) -> None:
        """The main thread got on: to be called at each step and each call of the warm-up."""
        self.steps += 1

    def _beat(self) -> None:
        usage = ProcessorTime()
        while True:
            self.send(Beat(steps=self.steps, cpu_seconds=usage.seconds()))
            time.sleep(BEAT_SECONDS)

    def _listen(self) -> None:
        while (message := read(self.source)) is not None:
            if isinstance(message, DrawTask):
                self.batches.put(message)
            elif isinstance(message, Cancel):
                self._cancelled.add(message.id)
        self._end()  # not sys.exit: the main thread may be inside a kernel for seconds

    def send(self, message: FromWorker) -> None:
        """From any thread. A pipe without a reader ends this process."""
        left = memoryview(frame(message))
        with self._lock:
            try:
                while left:
                    left = left[self.sink.write(left) :]
            except BrokenPipeError:
                self._end()

    def _end(self) -> NoReturn:
        try:
            self.at_end()
        finally:
            os._exit(0)

    def cancelled(self, job: Job) -> bool:
        """Whether nobody waits for this picture any more."""
        return job.id in self._cancelled

    def forget(self, jobs: tuple[Job, ...]) -> None:
        """These are answered; their ids may come again."""
        self._cancelled.difference_update(job.id for job in jobs)
