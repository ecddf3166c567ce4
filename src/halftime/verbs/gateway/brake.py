"""When a load waits and when it ends: rate limits, endpoints that are gone, the number of requests.

An upstream may be paid for, and may belong to others. One that answers 429 is left alone for as
long as it asks for (Retry-After), or for a time that doubles; one that answers nothing, or nothing
but errors, is not asked for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from halftime.base import units
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import NOT_HTTP, Sample
from halftime.verbs.gateway.http2 import NOT_HTTP2
from halftime.verbs.gateway.timer import now

PATIENCE = 20.0  # seconds that a load waits for rate limits in all
FIRST_WAIT = 1.0  # where a 429 does not say; doubled each time
LOST_IN_A_ROW = 20  # requests of one arm without any answer
TIMEOUTS_IN_A_ROW = 4
BAD_IN_A_ROW = 40  # answers of one arm that are none, before any that is one
INTERRUPTED = "interrupted by Ctrl-C"


@dataclass
class Brake:
    """Of one load. `reason` says why it is to end now; `gone` is the arm that answers no more."""

    timeouts: int = TIMEOUTS_IN_A_ROW
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = now
    reason: str = ""
    gone: str = ""
    _until: float = 0.0
    _waited: float = 0.0
    _waits: int = 0  # without a request that was let in between them
    _answered: set[str] = field(default_factory=set)
    _lost: Counter[str] = field(default_factory=Counter)
    _timed_out: Counter[str] = field(default_factory=Counter)
    _bad: Counter[str] = field(default_factory=Counter)

    def interrupt(self) -> None:
        """The user has had enough. Called where a cancellation arrived, which it takes for dealt
        with."""
        self.reason = self.reason or INTERRUPTED
        if task := asyncio.current_task():
            task.uncancel()

    @property
    def interrupted(self) -> bool:
        """By the user, rather than for what an endpoint did."""
        return self.reason == INTERRUPTED

    @property
    def pausing(self) -> bool:
        """An endpoint has asked to wait."""
        return self.clock() < self._until

    def allows(self, pools: Sequence[Pool], count: int) -> bool:
        """Whether so many more requests may be sent; where not, that is the reason to end."""
        allowance = pools[0].allowance
        if allowance.left >= count:
            return True
        self.reason = self.reason or f"--max-requests {allowance.most} were sent"
        return False

    async def wait(self) -> None:
        """For as long as an endpoint has asked to; a load that is to end does not wait."""
        while self.pausing and not self.reason:
            await self.sleep(self._until - self.clock())

    def note(self, sample: Sample) -> None:
        """Look at an answer, or at there being none."""
        arm = sample.arm
        if sample.ok:
            self._answered.add(arm)
            self._waits = 0
            for count in (self._lost, self._timed_out, self._bad):
                count[arm] = 0
        elif sample.refused:
            self._slow_down(sample)
        elif sample.status or sample.error in (NOT_HTTP, NOT_HTTP2):
            self._lost[arm] = self._timed_out[arm] = 0
            self._bad[arm] += 1
            if self._bad[arm] >= BAD_IN_A_ROW and arm not in self._answered:
                self._end(arm, f"{arm}: nothing but {sample.error or sample.status}")
        elif sample.error == "timeout":
            self._timed_out[arm] += 1
            if self._timed_out[arm] >= self.timeouts:
                self._end(arm, f"{arm} stopped answering: timeout")
        else:
            self._lost[arm] += 1
            if self._lost[arm] >= LOST_IN_A_ROW:
                self._end(arm, f"{arm} stopped answering: {sample.error}")

    def _end(self, arm: str, reason: str) -> None:
        self.reason, self.gone = self.reason or reason, self.gone or arm

    def _slow_down(self, sample: Sample) -> None:
        if self.pausing:
            return  # it was under way when another one was refused
        seconds = sample.retry_after
        if seconds is None:
            seconds = FIRST_WAIT * 2**self._waits
        self._waits += 1
        self._waited += seconds
        if self._waited > PATIENCE:
            self.reason = (
                f"{sample.arm}: {sample.status}, and it asks to wait {units.seconds(seconds)}"
            )
        self._until = self.clock() + seconds
