"""The worker's end of the pipes: standard input and output, kept clear of what libraries print."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.wire import Begin, Cancel, Draw, FromWorker, frame, read


@dataclass
class Channel:
    """Messages in and out. When the engine's end closes, this process ends itself: no orphan draws
    on."""

    source: BinaryIO
    sink: BinaryIO
    batches: queue.SimpleQueue[Draw] = field(default_factory=queue.SimpleQueue)
    at_end: Callable[[], None] = lambda: None  # before this process ends itself
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
        """Take messages in a thread of their own, so that a cancellation arrives while a picture is
        being drawn."""
        threading.Thread(target=self._listen, name="messages", daemon=True).start()

    def _listen(self) -> None:
        while (message := read(self.source)) is not None:
            if isinstance(message, Draw):
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
