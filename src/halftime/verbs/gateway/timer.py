"""A timer of microseconds for an event loop, whose own rounds to about a millisecond.

On Linux one timerfd (timerfd_create(2)) serves a heap of deadlines. Elsewhere the loop's timer is
used until 2 ms before the deadline and then the loop is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import sys
import time
from collections.abc import Callable

# the clock of all time stamps; CLOCK_MONOTONIC, the same in every process of one machine
now = time.monotonic

_POLL_WITHIN = 0.002
_MONOTONIC, _NONBLOCK, _CLOEXEC, _ABSTIME = 1, 0o4000, 0o2000000, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _timerfd() -> tuple[ctypes.CDLL, int] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.timerfd_create(_MONOTONIC, _NONBLOCK | _CLOEXEC)
    return (libc, handle) if handle >= 0 else None


class Timer:
    """Callbacks at given moments of `now`. Belongs to one running loop; close it when done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._descriptor = _timerfd()
        if self._descriptor:
            loop.add_reader(self._descriptor[1], self._ring)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at `when`, or as soon as the loop gets to it."""
        heapq.heappush(self._heap, (when, next(self._order), callback))
        if self._heap[0][0] == when:
            self._arm()

    async def sleep_until(self, when: float) -> None:
        """Return at `when`."""
        woken = self._loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        self.call_at(when, wake)
        await woken

    def close(self) -> None:
        """Give the descriptor back; callbacks that are still due are dropped."""
        self._heap.clear()
        if self._descriptor:
            self._loop.remove_reader(self._descriptor[1])
            os.close(self._descriptor[1])
            self._descriptor = None

    def _arm(self) -> None:
        when = self._heap[0][0]
        if self._descriptor:
            libc, handle = self._descriptor
            seconds = int(when)
            # A value of zero would disarm.
            value = _Timespec(seconds, max(1, int((when - seconds) * 1e9)))
            libc.timerfd_settime(
                handle, _ABSTIME, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None
            )
        elif when - now() > _POLL_WITHIN:
            self._loop.call_later(when - now() - _POLL_WITHIN, self._ring)
        else:
            self._loop.call_soon(self._ring)

    def _ring(self) -> None:
        if self._descriptor:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor[1], 8)
        while self._heap and self._heap[0][0] <= now():
            heapq.heappop(self._heap)[2]()
        if self._heap:
            self._arm()
