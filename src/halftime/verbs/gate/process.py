"""A worker as its parent sees it: started, asked, ended."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

import msgspec

from halftime.base.errors import HalftimeError
from halftime.records import Workload
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder, WorkerTask


class SideFailed(HalftimeError):
    """A side that cannot be measured; `label` says which."""

    def __init__(self, message: str, label: str = "") -> None:
        super().__init__(message)
        self.label = label


class NotInTime(SideFailed):
    """The budget ended while a process was starting."""


class GateWorker(Protocol):
    """What the gate needs of a process; tests have their own."""

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        """Its first answer: what it is, and how long its first call took."""
        ...

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        """One order's answer."""
        ...

    def end(self) -> None:
        """Let it go."""
        ...


class SideProcess:
    """A process of a side. Raises HalftimeError with the side's name where it fails."""

    def __init__(self, side: Side, model: str | None, workload: Workload) -> None:
        self._side = side
        # a pipe that nobody reads would stop it
        self._errors = TemporaryFile()  # noqa: SIM115  (closed by end())
        self._process = subprocess.Popen(
            [side.python, "-m", "halftime.verbs.gate.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=side.folder,
            env=side.environment(),
        )
        recipe = None if side.recipe is None else str(Path(side.recipe).absolute())
        self._send(WorkerTask(model=model, workload=workload, recipe=recipe))

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        """Wait until it has made its first call, for at most `seconds`."""
        return self._answer(seconds)

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        """One order's answer."""
        self._send(order)
        return self._answer(None)

    def end(self) -> None:
        """Close its standard input, upon which it ends; kill it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()  # it holds nothing that needs an orderly end
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _send(self, message: WorkerTask | WorkerOrder) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure() from error

    def _answer(self, seconds: float | None) -> WorkerAnswer:
        stdout = self._process.stdout
        assert stdout is not None
        begun = time.monotonic()
        if seconds is not None and not select.select([stdout], [], [], max(0.0, seconds))[0]:
            raise NotInTime(
                f"a process of {self._side.label} was not ready within "
                f"{time.monotonic() - begun:.0f} s",
                self._side.label,
            )
        line = stdout.readline()
        if not line:
            raise self._failure()
        try:
            answer = msgspec.json.decode(line, type=WorkerAnswer)
        except msgspec.DecodeError as error:
            raise SideFailed(
                f"a process of {self._side.label} answers as another halftime does ({error}). "
                "Name its environment instead, which is measured by this one.",
                self._side.label,
            ) from error
        if answer.error:
            raise SideFailed(
                f"{self._side.label}: {answer.error}{_hint(self._side, answer.error)}",
                self._side.label,
            )
        return answer

    def _failure(self) -> HalftimeError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {code}"
        reason = f"{last}{_hint(self._side, last)}"
        if code < 0:  # what it wrote last need not be why
            reason = f"{_signal_name(-code)}{f'; its last line: {last}' if lines else ''}"
        return SideFailed(
            f"a process of {self._side.label} ({self._side.python}) ended: {reason}",
            self._side.label,
        )


def _signal_name(number: int) -> str:
    """'SIGKILL, as a system does that has no memory left'."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    memory = ", as a system does that has no memory left" if name == "SIGKILL" else ""
    return f"killed by {name}{memory}"


_NOT_STARTED = ("ModuleNotFoundError", "ImportError", "SyntaxError")


def _hint(side: Side, last: str) -> str:
    """What another environment lacks, as a sentence; '' where it is something else."""
    if side.kind != "environment" or not last.startswith(_NOT_STARTED):
        return ""
    return (
        ". What measures there is this halftime, which needs Python 3.11 or newer and its "
        f"dependencies: {side.python} -m pip install halftime"
    )
