"""`halftime serve` as a process of its own, on a free port, ended whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scheduling import WAY

SOURCE = Path(__file__).parent.parent / "src"


@contextmanager
def served(*words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, which it says before it is ready. One thread, one picture at a
    time."""
    command = [
        sys.executable,
        "-m",
        "halftime",
        "serve",
        "--port",
        "0",
        "--max-batch",
        "1",
        "--threads",
        "1",
        "--scheduling",
        WAY.scheduling,
        *words,
    ]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | variables
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdout is not None
        yield child, child.stdout.readline().split()[3]
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
