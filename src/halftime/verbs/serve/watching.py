"""Between batches: has dynamo compiled, and does the memory grow?"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import psutil
import torch

from halftime.base import units
from halftime.fix.memory_watch import RUNS, MemoryWatch
from halftime.records.serve import RecompileAfterReady
from halftime.upstream import pytorch
from halftime.verbs.profile.compilation import look, plain_words


class Dynamo:
    """What was compiled since the last look, by dynamo's own counters."""

    def __init__(self) -> None:
        self._seen = look()

    def look(self, request: str = "") -> tuple[RecompileAfterReady, ...]:
        """One for each graph that was compiled since the last look, with dynamo's reason in plain
        words."""
        before, self._seen = self._seen, look()
        new = self._seen.graphs - before.graphs
        if new <= 0:
            return ()
        when = datetime.now(UTC).isoformat(timespec="seconds")
        reasons = _reasons(before.microseconds)[-new:]
        unexplained = "dynamo gave no reason: a part that had never been compiled"
        reasons += [unexplained] * (new - len(reasons))
        return tuple(
            RecompileAfterReady(guard=reason, when=when, request=request) for reason in reasons
        )


def _reasons(since: float) -> list[str]:
    metrics = [metric for metric in pytorch.compilations() if (metric.start_time_us or 0) >= since]
    return [plain_words(metric.recompile_reason) for metric in metrics if metric.recompile_reason]


class Memory:
    """The resident set of this process, and on CUDA the allocator, over the batches."""

    def __init__(
        self,
        limit: int,
        device: torch.device | None = None,
        read: Callable[[], int] | None = None,
    ) -> None:
        self._process, self._device = psutil.Process(), device
        self._limit, self._read = limit, read or self.resident
        self._begin()

    def _begin(self) -> None:
        self._watch = MemoryWatch(self._read, self._limit)
        self._highest_at_first: int | None = None  # over the first runs

    def resident(self) -> int:
        """Bytes."""
        return int(self._process.memory_info().rss) + _on_cuda(self._device)

    def grew(self) -> str | None:
        """What is wrong, in a sentence, where memory grew by more than the limit; None where it did
        not.

        Either it rose in each of the last batches, or it crept: the lowest of the last batches is
        that much above the highest of the first ones.
        """
        if self._watch.grew():
            return self._watch.message()
        levels = self._watch.readings
        if len(levels) < RUNS:
            return None
        if self._highest_at_first is None:
            self._highest_at_first = max(levels)
        crept = min(levels) - self._highest_at_first
        if crept <= self._limit:
            return None
        return f"memory crept up by {units.size(crept)} since the first runs"

    def drop(self) -> bool:
        """Give back compiled graphs, captured pools and free heap; True where something compiled
        was dropped."""
        compiled = look().graphs > 0
        if compiled:
            torch.compiler.reset()
        give_memory_back()
        self._begin()
        return compiled


def _on_cuda(device: torch.device | None) -> int:
    """Bytes that torch holds on this device; without its name torch would tell of card 0."""
    if device is None or device.type != "cuda":
        return 0
    return int(torch.cuda.memory_allocated(device))


def give_memory_back() -> None:
    """Garbage, the allocator's cache and the free heap go back to the system."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
