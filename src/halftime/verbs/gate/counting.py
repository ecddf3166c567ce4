"""What is counted in one short call of a side's pipeline: no clock, so no noise."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import torch

from halftime.base.errors import HalftimeError
from halftime.base.source import in_a_sentence
from halftime.pipeline.components import modules_of
from halftime.pipeline.device import device_of
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.audit.run import audit_loaded
from halftime.verbs.gate.compare import (
    BREAKS,
    BYTES,
    FLOPS,
    GRAPHS,
    HIDDEN,
    MEMORY,
    OPERATIONS,
    WAITS,
    WAITS_OUTSIDE,
)
from halftime.verbs.profile import compilation, probe
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from halftime.pipeline.load import LoadedPipeline

STEPS = 4  # of a counted call: the first and the last step may be others


@dataclass
class Counts:
    """Counter -> value, what stands behind it, and why it was not counted."""

    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def count(loaded: LoadedPipeline, workload: Workload) -> Counts:
    """All counters that this pipeline and device allow."""
    counts = Counts()
    _compilation(counts)  # first: the other counters call in ways that compile again
    short = msgspec.structs.replace(workload, steps=min(workload.steps, STEPS))
    compiled = [n for n, m in modules_of(loaded.pipeline).items() if pytorch.is_compiled(m)]
    hidden = f"{', '.join(compiled)} {HIDDEN}"
    for names, counter in (
        ((OPERATIONS, BYTES, MEMORY), _operations),
        ((FLOPS,), _flops),
        ((WAITS, WAITS_OUTSIDE), _waits),
    ):
        if compiled:
            counts.skipped |= dict.fromkeys(names, hidden)
        else:
            _try(counter, names, loaded, short, counts)
    return counts


Counting = Callable[["LoadedPipeline", Workload, Counts], None]


def _try(
    counter: Counting,
    names: tuple[str, ...],
    loaded: LoadedPipeline,
    workload: Workload,
    counts: Counts,
) -> None:
    try:
        counter(loaded, workload, counts)
    except HalftimeError as error:
        counts.skipped |= dict.fromkeys(names, str(error))
    except Exception as error:  # what a pipeline's own code raises on the shadow device
        counts.skipped |= dict.fromkeys(names, in_a_sentence(error))


def _compilation(counts: Counts) -> None:
    counters = compilation.look()
    counts.values |= {GRAPHS: counters.graphs, BREAKS: sum(counters.breaks.values())}
    counts.details[BREAKS] = tuple(
        next(iter(reason.strip().splitlines()), reason) for reason in counters.breaks
    )


class OperationCounter(pytorch.TorchDispatchMode):
    """Counts operations, the bytes of the tensors that go in and come out, and the most bytes of
    results that were alive at once: by shapes, so the same on every machine. Weights, and what a
    kernel needs for itself, are not among the results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.bytes, self.peak = 0, 0, 0
        self._alive: dict[int, tuple[pytorch.StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            inputs, results = _tensors((args, kwargs)), _tensors(result)
            self.bytes += sum(t.numel() * t.element_size() for t in (*inputs, *results))
            self._note_alive(inputs, results)
        return result

    def _note_alive(self, inputs: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
        self._alive = {k: row for k, row in self._alive.items() if not row[0].expired()}
        before = {pytorch.storage_key(t.untyped_storage()) for t in inputs}
        for tensor in results:
            storage = tensor.untyped_storage()
            key = pytorch.storage_key(storage)
            if key not in before and key not in self._alive:  # not in place
                self._alive[key] = pytorch.StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


def _tensors(values: object) -> list[torch.Tensor]:
    """Those with a storage of their own."""
    return [
        leaf
        for leaf in pytorch.tree_leaves(values)
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
    ]


@contextmanager
def _no_collections() -> Iterator[None]:
    """Garbage in cycles would be let go at moments of Python's own choosing."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _operations(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    by_stage: Counter[str] = Counter()
    counter, before = OperationCounter(), 0

    def observe(home: object) -> None:
        nonlocal before
        by_stage[getattr(home, "stage", "between stages")] += counter.operations - before
        before = counter.operations

    with _no_collections(), counter:
        observed_call(loaded.pipeline, workload, Recorder(HostClock(), observe=observe))
    counts.values |= {
        OPERATIONS: counter.operations,
        BYTES: counter.bytes,
        MEMORY: counter.peak,
    }
    counts.details[OPERATIONS] = tuple(f"{stage}: {n:,}" for stage, n in by_stage.items() if n)


def _flops(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    values = probe.flops(loaded.pipeline, workload)
    counts.values[FLOPS] = sum(flops for flops, _ in values.values())


def _waits(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    if device_of(loaded.pipeline).type != "cpu":
        reason = "audit looks at a pipeline on the CPU: gate once more with --device cpu"
        counts.skipped |= dict.fromkeys((WAITS, WAITS_OUTSIDE), reason)
        return
    audit = audit_loaded(loaded, workload)
    outside = [site for site in audit.sites if not site.in_loop]
    counts.values |= {WAITS: audit.in_loop_total, WAITS_OUTSIDE: sum(s.count for s in outside)}
    for name, inside in ((WAITS, True), (WAITS_OUTSIDE, False)):
        counts.details[name] = tuple(
            f"{site.file}:{site.line}: {site.code or site.kind} ({site.kind}, {site.count} times)"
            for site in audit.sites
            if site.in_loop is inside
        )
