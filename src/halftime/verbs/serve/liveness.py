"""Is a worker alive? Judged by its beats, its steps and its processor time.

A worker beats once a second from a thread of its own: a process that is stopped or frozen beats no
more. The beat says how far the main thread is, and what processor time has been used: one that
waits for ever makes no step and uses none, one that compiles makes no step and uses a lot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from halftime.verbs.serve.wire import Beat

Phase = Literal["loading", "warming", "drawing", "abandoned", "idle"]
_ASLEEP = 0.01  # of one core: a process that uses less waits for something


class Patience(NamedTuple):
    """Seconds that a worker may take in one phase of its life. None: as long as it likes."""

    silent: float  # without a beat or any other message
    asleep: float | None  # without a step and without processor time
    computing: float | None  # without a step, however much it computes


# Loading may wait for a download or for another process's lock; a first call may compile for long.
# `abandoned` is a batch that nobody waits for any more: its next step ends it.
PATIENCE: dict[Phase, Patience] = {
    "loading": Patience(60.0, 1800.0, None),
    "warming": Patience(30.0, 120.0, 3600.0),
    "drawing": Patience(10.0, 30.0, 180.0),
    "abandoned": Patience(10.0, 30.0, 30.0),
    "idle": Patience(10.0, None, None),
}
_CALLS = 10.0  # a step may take so many times what a whole such call took, where that is longer


@dataclass
class Liveness:
    """The signs of life of one worker.

    Seconds are those between looks, and a look that comes late counts no more than one in time:
    what passed while our own process stood still is not held against the worker.
    """

    silent: float = 0.0  # since its last message
    still: float = 0.0  # since its last step
    last: Beat = field(default_factory=lambda: Beat(steps=0, cpu_seconds=0.0))
    cpu_at_step: float = 0.0

    def heard(self, beat: Beat | None = None) -> None:
        """A message came: a beat, or any other, which counts as a step."""
        self.silent = 0.0
        if beat is None or beat.steps != self.last.steps:
            self.step()
        if beat is not None:
            if self.still == 0.0:
                self.cpu_at_step = beat.cpu_seconds
            self.last = beat

    def step(self) -> None:
        """It got on, or has just been given something to do."""
        self.still, self.cpu_at_step = 0.0, self.last.cpu_seconds

    def look(self, seconds: float) -> None:
        """So much time passed."""
        self.silent += seconds
        self.still += seconds

    def verdict(self, phase: Phase, call_seconds: float = 0.0) -> str | None:
        """Why it must be taken for dead; None where it may go on. `call_seconds` is what a call
        such as the one it draws usually takes."""
        patience, longer = PATIENCE[phase], _CALLS * call_seconds
        if self.silent > patience.silent:
            return f"it gave no sign of life for {self.silent:.0f} s"
        asleep = self.last.cpu_seconds - self.cpu_at_step < _ASLEEP * self.still
        if asleep and patience.asleep is not None and self.still > max(patience.asleep, longer):
            return f"it made no step and used no processor time for {self.still:.0f} s"
        if patience.computing is not None and self.still > max(patience.computing, longer):
            return f"it computed for {self.still:.0f} s without a step"
        return None
