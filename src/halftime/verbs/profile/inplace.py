"""Around the user's own code: each call of a pipeline is timed where it stands."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from halftime.base.errors import BadInput, BadWorkload
from halftime.base.ledger import measured
from halftime.base.neighbours import look, sentence
from halftime.pipeline.arguments import absorbed
from halftime.pipeline.device import device_of, this_environment
from halftime.pipeline.inputs import again, described
from halftime.pipeline.load import LoadedPipeline, checked_pipeline
from halftime.pipeline.signature import call_parameters
from halftime.records import Environment, Session, Workload
from halftime.records.priors import with_predictions
from halftime.verbs.profile import compilation
from halftime.verbs.profile.call import tree
from halftime.verbs.profile.clock import Clock, clock_for
from halftime.verbs.profile.compilation import CompileCounters
from halftime.verbs.profile.instrument import instrumented
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.session import MeasuredCalls, TimedCall
from halftime.verbs.profile.thumbnails import drawing_of
from halftime.verbs.profile.timed_methods import methods_timed, plain_method
from halftime.verbs.profile.users_code import callbacks_timed, compilations_timed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

IN_PLACE = "measured around code of your own"
_ONE_CALL = (
    "one call alone, so it is the first, with all that happens once in it: call the pipeline "
    "again within the block"
)


@dataclass
class Profiling:
    """What `profiling` has seen so far; `session` is its ledger."""

    pipeline: DiffusionPipeline
    environment: Environment
    clock: Clock
    compiled_before: CompileCounters
    neighbours: str
    calls: list[TimedCall] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    _inside: bool = False

    @property
    def session(self) -> Session:
        """The first call beside the later ones. Raises BadInput where there was none."""
        if not self.calls:
            raise BadInput(
                f"{type(self.pipeline).__name__} was not called within the block, so there is "
                "nothing to tell."
            )
        first, steady = self.calls[0], self.calls[1:] or self.calls
        measurement = MeasuredCalls(
            LoadedPipeline(self.pipeline, type(self.pipeline).__name__, self._notes()),
            self._workload(),
            self.environment,
            first=first,
            steady=steady,
            compiled_before=self.compiled_before,
            compiled_warm=first.compiled,
            neighbours=self.neighbours,
        )
        return with_predictions(measurement.session(measurement.rows()))

    def _workload(self) -> Workload:
        """The most frequent one of the later calls, whose mean the ledger is."""
        hashes = Counter(workload.content_hash() for workload in self.workloads[1:])
        frequent = hashes.most_common(1)[0][0] if hashes else self.workloads[0].content_hash()
        return next(work for work in self.workloads if work.content_hash() == frequent)

    def _notes(self) -> tuple[str, ...]:
        kinds = len({workload.content_hash() for workload in self.workloads[1:]})
        notes = [IN_PLACE]
        if len(self.calls) == 1:
            notes.append(_ONE_CALL)
        if kinds > 1:
            notes.append(f"the later calls are of {kinds} different workloads: means over all")
        return tuple(notes)

    def called(self, method: Callable[..., object], *args: object, **kwargs: object) -> object:
        """One call, timed; the pipeline's own calls of itself are part of it."""
        if self._inside:
            return method(*args, **kwargs)
        self._inside = True
        try:
            return self._timed(method, args, kwargs)
        finally:
            self._inside = False

    def _timed(
        self, method: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        recorder = Recorder(self.clock)
        before = {name: again(value) for name, value in kwargs.items()}
        with (
            instrumented(self.pipeline, recorder),
            compilations_timed(recorder),
            callbacks_timed(kwargs, recorder) as kwargs,
        ):
            origin = self.clock.start()
            result = method(*args, **kwargs)
            end = self.clock.finish()
        nodes = tree(recorder, self.clock, origin)
        call = measured(nodes, end.host - origin.host)
        self.calls.append(TimedCall(call, compilation.look(), drawing=drawing_of(result)))
        self.workloads.append(workload_of(self.pipeline, method, args[1:], before))
        return result


@contextmanager
def profiling(pipeline: DiffusionPipeline) -> Iterator[Profiling]:
    """Time each call of the pipeline within the block, however your own code calls it.

    with halftime.profiling(pipeline) as p:
        pipeline("a cat", num_inference_steps=30)
        pipeline("a cat", num_inference_steps=30)
    p.session   # the first call, and the ledger of the later ones

    Raises UnknownModel for an object that is no pipeline.
    """
    checked_pipeline(pipeline)
    device = device_of(pipeline)
    if plain_method(pipeline, "__call__") is None:
        raise BadInput(f"the call of {type(pipeline).__name__} is no Python function to be timed.")
    profiled = Profiling(
        pipeline,
        this_environment(str(device)),
        clock_for(device),
        compilation.look(),
        sentence(look()),
    )
    with methods_timed(pipeline, {"__call__": profiled.called}):
        yield profiled


def workload_of(
    pipeline: DiffusionPipeline,
    method: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> Workload:
    """What a call of one's own asked for, as far as a workload can say."""
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    steps = call_parameters(pipeline).default("num_inference_steps")
    workload = Workload(prompts=("",), steps=steps if isinstance(steps, int) else Workload().steps)
    try:
        workload, further = absorbed(workload, arguments)
    except BadWorkload:  # the pipeline has drawn it: its own business
        further = arguments
    seed = _seed(further.get("generator"))
    if seed is not None:
        del further["generator"]
        workload = msgspec.structs.replace(workload, seed=seed)
    return described(workload, further)


def _seed(generator: object) -> int | None:
    """Of one fresh generator; kinds, or one that was used, are told by their content."""
    seed = getattr(generator, "initial_seed", None)
    return seed() if seed is not None and 0 <= seed() < 2**63 else None
