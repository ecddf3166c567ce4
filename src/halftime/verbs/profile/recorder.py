"""The recorder: which span was open when, as cheaply as possible; all else is worked out later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from halftime.base.ledger import STEP
from halftime.records.stages import COMPILATION, Place
from halftime.verbs.profile.clock import Clock, Mark


@dataclass(slots=True)
class RawSpan:
    """A span as recorded. A `part` of '' makes it transparent: its stage gets its own time, not its
    children's."""

    place: Place
    name: str
    depth: int
    begin: Mark
    end: Mark | None = None


@dataclass(slots=True)
class Recorder:
    """Spans of one call, in the order in which they began.

    `observe` is called at every boundary with the innermost recognised place of the segment that
    ends there; probes hang on it, timed runs leave it None. `annotate` opens a named range for a
    tracing profiler around each span.
    """

    clock: Clock
    observe: Callable[[Place | None], None] | None = None
    annotate: Callable[[Place, str, int], Callable[[], None]] | None = None
    spans: list[RawSpan] = field(default_factory=list)
    loops: list[Mark] = field(default_factory=list)
    _open: list[RawSpan] = field(default_factory=list)
    _steps: int = 0

    @contextmanager
    def span(self, home: Place, name: str) -> Iterator[None]:
        """Time a block."""
        if self.observe:
            self.observe(self.place)
        close = self.annotate(home, name, self._steps) if self.annotate else None
        span = RawSpan(home, name, len(self._open), self.clock.mark())
        self.spans.append(span)
        self._open.append(span)
        try:
            yield
        finally:
            span.end = self.clock.mark()
            if close:
                close()
            if self.observe:
                self.observe(self.place)
            self._open.pop()
            if name == STEP:
                self._steps += 1

    def reset(self) -> None:
        """Forget the last call, so that the recorder can stay where it is for the next."""
        self.spans, self.loops, self._open, self._steps = [], [], [], 0

    def loop_begins(self) -> None:
        """A denoising loop starts here (its progress bar was made)."""
        self.loops.append(self.clock.mark())
        self._steps = 0

    def compiles(self) -> Place:
        """Where torch.compile's time goes now: to the part that is being called."""
        here = self.place
        return Place(COMPILATION, (here.part or here.stage) if here else "pipeline")

    @property
    def step(self) -> int | None:
        """The denoising step, from 0, while a loop is under way."""
        in_loop = self.loops and any(span.place.stage == "denoise" for span in self._open)
        return self._steps if in_loop else None

    @property
    def place(self) -> Place | None:
        """What is being called: the innermost recognised place."""
        # The outermost opaque span owns what happens inside it; failing that, the innermost
        # transparent one.
        return next(
            (span.place for span in self._open if span.place.part),
            self._open[-1].place if self._open else None,
        )
