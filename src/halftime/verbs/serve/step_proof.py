"""Before ready: does scheduling at the step give this pipeline's pictures? Shown at every start, on
the pipeline as it is served, and repeated until dynamo stands still."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import msgspec
import numpy as np

from halftime.base.errors import HalftimeError
from halftime.base.progress import Progress
from halftime.base.source import in_a_sentence
from halftime.fix.table_scheduler import is_tabled
from halftime.pipeline.device import device_of
from halftime.records.serve import Certificate
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.step_drawing import StepTimes
from halftime.verbs.serve.step_graphs import StepGraphs
from halftime.verbs.serve.step_loop import LOOPS, advance, begin, finish, refusal
from halftime.verbs.serve.step_policies import largest
from halftime.verbs.serve.stepping import Watch, belongs_to_a_fix
from halftime.verbs.serve.studio import Studio, as_pixels
from halftime.verbs.serve.warmup import FEW_STEPS, MOST_PASSES, Kind, graphs, jobs_of

# fixes under which a step of one request is not its own
_TIED = {
    "loop-graph": "runs all steps of a call in one go",
    "step-cache": "keeps what the denoiser computed in one step for the next",
    "guidance-interval": "changes the loop of a whole call",
}
GREY_LEVELS = 1  # that a picture drawn beside others may differ from the same drawn alone


@dataclass(frozen=True)
class Proof:
    """What was shown. `refusal`: why requests are scheduled by the call; '' where they need not
    be."""

    refusal: str
    sizes: tuple[int, ...] = (1,)  # batch sizes that hold the promise
    times: StepTimes = field(default_factory=StepTimes)
    pictures: int = 0  # that were compared
    levels: int = 0  # the largest difference beside others, in grey levels
    graphs: StepGraphs | None = None  # of the denoiser, on CUDA

    def certify(self, certificate: Certificate) -> Certificate:
        """The certificate, which says how requests are scheduled and why."""
        return msgspec.structs.replace(
            certificate,
            scheduling="call" if self.refusal else "step",
            scheduling_why=self.refusal or self._why(),
            step_sizes=self.sizes,
        )

    def _why(self) -> str:
        beside = f", beside others within {self.levels} grey levels" * (max(self.sizes) > 1)
        graphs = self.graphs.graphs if self.graphs is not None else {}
        captured = f"; {len(graphs)} forward passes are CUDA graphs" * bool(graphs)
        return (
            f"{self.pictures} pictures drawn step by step, in turns, equal those of the "
            f"pipeline's own call: alone bit for bit{beside}{captured}"
        )


class NotTheSame(HalftimeError):
    """A picture drawn step by step is not the one that the pipeline draws."""


def prove(studio: Studio, certificate: Certificate, progress: Progress) -> Proof:
    """Draw pictures both ways until a whole pass compiled nothing."""
    reason = refused(studio)
    if reason is not None:
        return Proof(reason)
    captured = graphs_for(studio)
    if captured is not None:
        proof = _proof(studio, certificate, progress, captured)
        captured.seal()
        if not proof.refusal:
            return proof
        captured.release(proof.refusal)
    return _proof(studio, certificate, progress, None)


def graphs_for(studio: Studio) -> StepGraphs | None:
    """Those of the denoiser, where it may be captured: on CUDA, and where no fix captures it."""
    if device_of(studio.pipeline).type != "cuda" or "denoiser-compile" in studio.fixes:
        return None
    return StepGraphs(getattr(studio.pipeline, LOOPS[type(studio.pipeline).__name__].denoiser))


def _proof(
    studio: Studio, certificate: Certificate, progress: Progress, captured: StepGraphs | None
) -> Proof:
    try:
        before = graphs()
        for number in range(MOST_PASSES):
            progress(f"scheduling at the step, pass {number + 1}", number, MOST_PASSES)
            proof = _pass(studio, certificate, captured)
            now = graphs()
            if now == before:
                return proof
            before = now
    # whatever the pipeline's code raised when it was called so: it is served by the call
    except Exception as error:
        return Proof(
            str(error) if isinstance(error, NotTheSame) else f"a try failed: {in_a_sentence(error)}"
        )
    return Proof(f"dynamo still compiled in pass {MOST_PASSES} of scheduling at the step")


def refused(studio: Studio) -> str | None:
    """Why it is not tried."""
    tied = next((name for name in studio.fixes if name in _TIED), None)
    if tied is not None:
        return f"the recipe's {tied} {_TIED[tied]}"
    if belongs_to_a_fix(studio.template) and not is_tabled(studio.template):
        return "a fix of the recipe has changed the scheduler, which each request needs for itself"
    return refusal(studio.pipeline)


def _pass(studio: Studio, certificate: Certificate, captured: StepGraphs | None) -> Proof:
    times, sizes, pictures, levels = StepTimes(), list(certificate.batch_sizes), 0, 0
    for (width, height), branch in product(certificate.sizes, certificate.guidance):
        for batch in list(sizes):
            kind = Kind("text2img", width, height, batch, branch, FEW_STEPS, None)
            jobs = _jobs(studio, kind)
            pictures_in_turns = _in_turns(studio, jobs, times, _sizes_up_to(batch, sizes), captured)
            difference = _difference(studio, jobs, pictures_in_turns)
            if batch == 1 and difference:
                raise NotTheSame(
                    f"at {width}x{height}, {branch}, a picture drawn step by step differs by "
                    f"{difference} grey levels from the pipeline's own"
                )
            if difference > GREY_LEVELS:
                sizes.remove(batch)
            else:
                levels, pictures = max(levels, difference), pictures + len(jobs)
    return Proof("", tuple(sizes), times, pictures, levels, captured)


def _sizes_up_to(batch: int, sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in sizes if size <= batch)


def _jobs(studio: Studio, kind: Kind) -> tuple[Job, ...]:
    """Of a batch of one two, which put each other aside; of several steps, so that they are never
    at the same one."""
    jobs = jobs_of(kind._replace(batch=max(2, kind.batch)), studio.default_guidance, 0)
    return tuple(
        msgspec.structs.replace(job, steps=job.steps + index) for index, job in enumerate(jobs)
    )


def _difference(studio: Studio, jobs: Sequence[Job], pictures: Sequence[np.ndarray]) -> int:
    """Between the pictures drawn in turns and those of the pipeline's own call; in grey levels."""
    own = [studio.draw([job], Watch([job], lambda: jobs)).pictures[0] for job in jobs]
    return max(map(grey_levels, pictures, own))


def _in_turns(
    studio: Studio,
    jobs: Sequence[Job],
    times: StepTimes,
    sizes: Sequence[int],
    captured: StepGraphs | None,
) -> list[np.ndarray]:
    """As many as the largest of `sizes` at once, and each put aside as soon as it took a step."""
    pipeline, template, size = studio.pipeline, studio.template, (jobs[0].width, jobs[0].height)
    clock = time.perf_counter
    begun = clock()
    loops = [begin(pipeline, template, studio.arguments(pipeline, [job])) for job in jobs]
    times.learn("before", size, (clock() - begun) / len(jobs))
    line = deque(loops)
    while line:
        together = [line.popleft() for _ in range(largest(sizes, len(line)))]
        begun = clock()
        advance(pipeline, together, captured)
        times.learn("steps", size, (clock() - begun) / len(together))
        line += [loop for loop in together if not loop.done]
        studio.beat()
    begun = clock()
    pictures = [as_pixels(finish(pipeline, loop))[0] for loop in loops]
    times.learn("after", size, (clock() - begun) / len(jobs))
    return pictures


def grey_levels(left: np.ndarray, right: np.ndarray) -> int:
    """The largest difference of two pictures of 8 bits."""
    return int(np.abs(left.astype(int) - right.astype(int)).max())
