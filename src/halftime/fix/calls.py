"""Which call of a pipeline is running, and in which thread: for fixes that follow one call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base.errors import DoesNotApply
from halftime.pipeline.change import surrounded

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class RunningCall:
    """The call that a fix follows. Its denoiser may also be called from elsewhere (by another
    pipeline that was made from this one, or directly): `here` is False then."""

    fix: str
    evaluation: int = 0  # of the denoiser, counted from 0 in each call
    completed: int = 0  # calls that ended without an error
    thread: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def here(self) -> bool:
        """Whether this thread is inside a call of the pipeline."""
        return self.thread == threading.get_ident()

    def next(self) -> int:
        """The number of this evaluation."""
        self.evaluation += 1
        return self.evaluation - 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """One call. Raises DoesNotApply where another thread is in one."""
        with self.lock:
            if self.thread is not None and not self.here:
                raise DoesNotApply(
                    f"fix {self.fix!r} follows one call at a time, and another thread is calling "
                    "this pipeline. Give each thread its own pipeline, or take turns with a lock."
                )
            before = self.thread, self.evaluation
            self.thread, self.evaluation = threading.get_ident(), 0
        try:
            yield
            self.completed += 1
        finally:
            self.thread, self.evaluation = before


@contextmanager
def followed(pipeline: DiffusionPipeline, fix: str) -> Iterator[RunningCall]:
    """Within the block each call of the pipeline is seen, and only one thread at a time makes
    one."""
    call = RunningCall(fix)
    with surrounded(pipeline, call.running):
        yield call
