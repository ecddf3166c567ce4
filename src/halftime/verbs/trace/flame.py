"""Idle time of the device by Python stack, as the folded text that flame graph tools draw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from halftime.base.store import write_bytes
from halftime.verbs.trace.run import TraceReading


def folded(reading: TraceReading, out: Path | str) -> None:
    """Write 'outermost;…;innermost nanoseconds' lines, the longest first. Raises BadFile."""
    stacks: Counter[str] = Counter()
    for frame in reading.frames:
        # A semicolon separates frames, so none may hold one.
        stacks[";".join(line.replace(";", ",") for line in reversed(frame.stack))] += frame.idle
    text = "".join(f"{stack} {idle}\n" for stack, idle in stacks.most_common())
    write_bytes(out, text.encode())
