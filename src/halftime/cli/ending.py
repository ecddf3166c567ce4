"""How a command ends: what it has written, what standard output refused, and its exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO, cast

import click

from halftime.base.errors import ReaderLeft
from halftime.base.store import reason


@dataclass
class Journal:
    """What one command has left behind so far, for the sentence that it ends with."""

    written: list[str] = field(default_factory=list)  # files that are complete
    resumes: str = ""  # what an interrupted run leaves to go on from, as a clause
    problems: list[str] = field(default_factory=list)  # sentences: what could not be written

    def interruption(self) -> str:
        """The one sentence on Ctrl-C."""
        files = f"{', '.join(self.written)} is complete" if len(self.written) == 1 else ""
        if len(self.written) > 1:
            files = f"{', '.join(self.written)} are complete"
        clauses = [clause for clause in (files, self.resumes) if clause]
        return f"interrupted; {'; '.join(clauses) or 'nothing was written'}."


def journal() -> Journal:
    """The running command's journal; outside of one, a fresh one."""
    context = click.get_current_context(silent=True)
    return (context.find_object(Journal) if context else None) or Journal()


class ForgivingStream:
    """A text stream that keeps its first failure instead of raising it.

    A reader who leaves early, or a full disk behind `> file`, must not keep the results from
    reaching their files. Bytes for `buffer` are not protected: who writes them wants to know.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop what can no longer be written."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing where that can no longer work."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def writelines(self, lines: list[str]) -> None:
        """As `write`, line after line."""
        for line in lines:
            self.write(line)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        # What is buffered would fail again when Python ends, with another exit code.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> object:
        return cast(object, getattr(self._stream, name))


@contextlib.contextmanager
def forgiving_streams() -> Iterator[ForgivingStream]:
    """Standard output and error that never raise; yields the first of them."""
    output, errors = sys.stdout, sys.stderr
    forgiving = ForgivingStream(output)
    sys.stdout, sys.stderr = cast(TextIO, forgiving), cast(TextIO, ForgivingStream(errors))
    try:
        yield forgiving
    finally:
        forgiving.flush()
        sys.stdout, sys.stderr = output, errors


def output_failure() -> str:
    """Why standard output takes no more, as a sentence; '' where it does or its reader left."""
    failure = getattr(sys.stdout, "failure", None)
    if failure is None or is_closed_pipe(failure):
        return ""
    return f"cannot write to standard output: {reason(failure)}."


def is_closed_pipe(error: OSError) -> bool:
    """Whether the reader of a pipe has left."""
    return error.errno in (errno.EPIPE, errno.ESHUTDOWN)


def code_where_the_reader_left(code: int) -> int:
    """0 stays; any other answer was perhaps not read, so it must not look like a gate's."""
    return ReaderLeft.exit_code if code else 0
