"""Which pictures are drawn together: a pure function of the queue."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from halftime.verbs.serve.messages import Job


def kind_of(job: Job, alone: bool = False) -> Hashable:
    """Equal for jobs that may share a call of the pipeline.

    What shapes a tensor or changes the loop must agree; prompts, negative prompts, seeds and
    pictures may differ. A job that is profiled, or one that may have killed a worker (`alone`),
    shares with nobody.
    """
    if alone or job.profile:
        return job.id
    has = (job.negative_prompt is None, job.image is None)
    return (job.width, job.height, job.steps, job.guidance, job.strength, *has)


def batch_of(kinds: Sequence[Hashable], sizes: Sequence[int]) -> list[int]:
    """Indices of the pictures to draw next, in order: the first, and the next of its kind.

    As many as the largest of `sizes` (the batch sizes that are warm) that can be filled: an odd one
    waits rather than be drawn at a size that was never run. `sizes` holds 1.
    """
    if not kinds:
        return []
    alike = [index for index, kind in enumerate(kinds) if kind == kinds[0]]
    size = max(size for size in sizes if size <= len(alike))
    return alike[:size]


def could_grow(kinds: Sequence[Hashable], sizes: Sequence[int]) -> bool:
    """Whether waiting for company could make the next batch larger."""
    return len(batch_of(kinds, sizes)) < max(sizes)
