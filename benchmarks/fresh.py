"""A command in a process of its own: how long it took, and how much memory at most."""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple


class ProcessCost(NamedTuple):
    """Of one process, from start to exit."""

    seconds: float
    peak_bytes: int  # resident
    cpu_seconds: float = 0.0  # of the process, which load beside it hardly changes


def fresh_process(command: list[str]) -> ProcessCost:
    """Run it and wait. Raises SystemExit with the end of its standard error where it fails."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    error_text = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}: {error_text[-500:]}")
    seconds = time.perf_counter() - begin
    return ProcessCost(seconds, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
