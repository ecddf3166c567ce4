"""A planted proxy as a process of its own, for the benchmarks of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def planted(fault: str, to: str, *amounts: str) -> Iterator[tuple[str, list[float]]]:
    """A proxy in front of `to`: its URL, and after the block the median hold as it happened."""
    command = [sys.executable, "-m", "halftime.testing.proxies", fault, "--to", to, *amounts]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    held: list[float] = []
    try:
        yield process.stdout.readline().split()[-1] + "/v1", held
    finally:
        process.terminate()
        held.append(float(process.stdout.read().split()[-1]))
        process.wait()
