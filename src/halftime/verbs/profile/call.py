"""One call of the pipeline, timed or observed."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from halftime.base.environment import load_average
from halftime.base.errors import OutOfMemory
from halftime.base.ledger import Measured, Node, measured, with_loops
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.change import progress_bars
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.profile.clock import Clock, Mark
from halftime.verbs.profile.instrument import instrumented
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.users_code import callbacks_timed, compilations_timed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


_OUTPUTS: ContextVar[list[object] | None] = ContextVar("outputs", default=None)


@contextlib.contextmanager
def outputs_kept() -> Iterator[list[object]]:
    """What the timed calls within return, in their order; others' outputs are let go at once."""
    outputs: list[object] = []
    token = _OUTPUTS.set(outputs)
    try:
        yield outputs
    finally:
        _OUTPUTS.reset(token)


def timed_call(
    pipeline: DiffusionPipeline,
    workload: Workload,
    clock: Clock,
    further: Mapping[str, object] | None = None,
) -> Measured:
    """Call the pipeline once for `workload`, with `further` arguments, and time its parts. Raises
    OutOfMemory."""
    arguments = call_arguments(pipeline, workload, further)
    recorder = Recorder(clock)
    busy = load_average()
    gc.collect()  # the garbage of earlier calls is not this one's cost
    with (
        instrumented(pipeline, recorder),
        compilations_timed(recorder),
        callbacks_timed(arguments, recorder) as arguments,
        out_of_memory_explained(),
    ):
        origin = clock.start()
        output = pipeline(**arguments)
        end = clock.finish()
    if (outputs := _OUTPUTS.get()) is not None:
        outputs.append(output)
    wall = end.host - origin.host
    return measured(tree(recorder, clock, origin), wall, busy)


def tree(recorder: Recorder, clock: Clock, origin: Mark) -> list[Node]:
    """The recorded spans as a tree, denoising loops included. Call after the clock has finished."""
    closed = [span for span in recorder.spans if span.end is not None]
    begins = clock.seconds(origin, [span.begin for span in closed])
    ends = clock.seconds(origin, [span.end for span in closed if span.end is not None])
    roots: list[Node] = []
    open_nodes: list[Node] = []
    for span, begin, end in zip(closed, begins, ends, strict=True):
        assert span.end is not None
        node = Node(span.place, span.name, begin, end, span.end.host - span.begin.host)
        del open_nodes[span.depth :]
        (open_nodes[-1].children if open_nodes else roots).append(node)
        open_nodes.append(node)
    return with_loops(roots, clock.seconds(origin, recorder.loops))


def observed_call(
    pipeline: DiffusionPipeline,
    workload: Workload,
    recorder: Recorder,
    further: Mapping[str, object] | None = None,
) -> None:
    """Call the pipeline once with a recorder that only observes. Raises OutOfMemory."""
    arguments = call_arguments(pipeline, workload, further)
    with (
        instrumented(pipeline, recorder),
        callbacks_timed(arguments, recorder) as arguments,
        out_of_memory_explained(),
    ):
        pipeline(**arguments)


@contextlib.contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """torch says 'out of memory' in three ways; say it in ours."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if pytorch.is_out_of_memory(error):
            first_line = next(iter(str(error).strip().splitlines()), "no details")
            raise OutOfMemory(
                f"out of memory in the middle of a call: {first_line} Try a smaller size or batch, "
                "or dtype bfloat16."
            ) from error
        raise


@contextlib.contextmanager
def quiet_progress_bars(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The pipeline's progress bars cost the time that they cost, without writing on the screen."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        progress_bars(pipeline, file=nowhere),
    ):
        yield
