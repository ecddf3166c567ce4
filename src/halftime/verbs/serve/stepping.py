"""Between two steps of a batch: who has left, whose deadline has passed, and who wants a preview.

Everything hangs on the scheduler's `step`, which every diffusers loop calls once an evaluation: no
callback argument of a pipeline is needed. The step itself is the original one with its own
arguments, so what it returns is unchanged.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.fix.table_scheduler import is_tabled
from halftime.pipeline.change import patched
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.preview import Previews, SeenStep, preview_steps
from halftime.verbs.serve.streams import RunAhead

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin


class NobodyWaits(BaseException):
    """Every picture of the batch was cancelled or is late: the call ends here. Not an Exception, so
    nothing eats it."""


@dataclass
class Watch:
    """What is looked at after each step. `still_waiting` gives the jobs that somebody waits for."""

    jobs: Sequence[Job]
    still_waiting: Callable[[], Sequence[Job]]
    previews: Previews | None = None
    step: int = 0
    beat: Callable[[], None] = lambda: None  # told of each step: a sign of life
    progress: Callable[[int, int], None] = lambda step, steps: None  # the same, of how many
    pace: RunAhead = field(default_factory=RunAhead)

    def begin(self) -> None:
        """Before the pipeline is called."""
        if not self.still_waiting():
            raise NobodyWaits

    def after(
        self,
        scheduler: SchedulerMixin,
        model_output: torch.Tensor,
        timestep: object,
        sample: torch.Tensor,
        index: int | None,
    ) -> None:
        """After the scheduler's step. Raises NobodyWaits."""
        self.step += 1
        self.pace.step(sample.device)
        self.beat()
        waiting = self.still_waiting()
        if not waiting:
            raise NobodyWaits
        total = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)
        self.progress(self.step, total)
        if self.previews is None:
            return
        due = [job for job in waiting if self.step in preview_steps(total, job.previews)]
        if due:
            inputs = SeenStep(scheduler, model_output, timestep, sample, index)
            rows = [position for position, job in enumerate(self.jobs) if job in due]
            self.previews.wish(due, self.step, [inputs.row(row) for row in rows])


@contextmanager
def watched(pipeline: DiffusionPipeline, template: SchedulerMixin, watch: Watch) -> Iterator[None]:
    """The pipeline with its own scheduler for this call, whose steps are watched.

    The scheduler is a copy of `template`, so nothing that one batch did to it, finished or not,
    reaches the next. One that a fix put there is not copied: its tables are what makes it fast, and
    its run begins anew at set_timesteps.
    """
    scheduler = template if belongs_to_a_fix(template) else copy.deepcopy(template)
    with (
        patched(pipeline, "scheduler", scheduler),
        patched(scheduler, "step", _watching(scheduler, watch)),
    ):
        yield


def belongs_to_a_fix(scheduler: SchedulerMixin) -> bool:
    """Whether a fix steps it by a table, or has put a function of its own on it."""
    patches = [
        value
        for value in vars(scheduler).values()
        if isinstance(value, functools.partial | types.FunctionType)
    ]
    return is_tabled(scheduler) or bool(patches)


def _watching(scheduler: SchedulerMixin, watch: Watch) -> Callable[..., object]:
    original = scheduler.step

    @functools.wraps(original)  # pipelines look at the signature
    def step(
        model_output: torch.Tensor,
        timestep: object,
        sample: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> object:
        result = original(model_output, timestep, sample, *args, **kwargs)
        index = getattr(scheduler, "step_index", None)
        watch.after(scheduler, model_output, timestep, sample, None if index is None else index - 1)
        return result

    return step
