"""A command in a process of its own: how long it took, and how much memory at most."""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple


class Taken(NamedTuple):
    """Of one process, from start to exit."""

    seconds: float
    peak_bytes: int  # resident


def fresh_process(command: list[str]) -> Taken:
    """Run it and wait. Raises SystemExit with the end of what it said where it fails."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}: {said[-500:]}")
    return Taken(time.perf_counter() - begin, usage.ru_maxrss * 1024)
